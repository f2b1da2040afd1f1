//! How long things take here. Printed, not judged: a figure depends on the machine and on who else uses it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use controller::backend::{Backend, Sighting, Unit};
use server::identity::Incarnation;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::rig::{DEADLINE, Rig, died, life, order};

/// How long each step takes, one after another.
pub(crate) async fn of_each_step(rig: &Rig) -> Result<()> {
    const ROUNDS: u64 = 30;
    let mut sightings = rig.watch();
    let mut steps: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut step =
        |name, since: Instant| steps.entry(name).or_default().push(since.elapsed().as_secs_f64() * 1e3);
    let door = rig.door()?;
    for round in 1..=ROUNDS {
        let name = format!("dialler-0.{round}");
        let began = Instant::now();
        let unit = rig.spawn(&name).await?;
        step("spawn: create and start", began);
        timeout(DEADLINE, door.accept()).await??;
        step("spawn until it dials the door", began);
        let began = Instant::now();
        rig.backend.signal(&life(&name)?, &unit, 9).await?;
        died(&mut sightings, &name).await?;
        step("kill until its autopsy", began);
        let began = Instant::now();
        rig.backend.remove(&life(&name)?, &unit).await?;
        step("remove", began);
    }
    let began = Instant::now();
    let fleet = (0..8).map(|place| async move { rig.spawn(&format!("sleeper-{place}.1")).await });
    futures_util::future::try_join_all(fleet).await?;
    step("spawn of 8 at once, the last one", began);
    steps.iter_mut().for_each(|(name, millis)| print_figures(name, millis));
    Ok(())
}

/// Four places, and every 100 ms one of those that are alive is killed, for 15 s. How long until its
/// replacement has dialled the door?
pub(crate) async fn of_a_storm(rig: &Rig) -> Result<()> {
    let door = rig.door()?;
    let mut links = Vec::new();
    let mut sightings = rig.watch();
    let mut places = [const { Place::new() }; 4];
    let mut spawns = JoinSet::new();
    let replace = |place: usize, generation: u32, spawns: &mut JoinSet<_>| {
        let backend = Arc::clone(&rig.backend);
        spawns.spawn(async move {
            let order = order(&format!("dialler-{place}.{generation}"))?;
            Ok::<_, anyhow::Error>((place, backend.spawn(&order).await?))
        });
    };
    (0..places.len()).for_each(|place| replace(place, 1, &mut spawns));
    let (mut recoveries, mut nobody) = (Vec::new(), 0);
    let mut kills = tokio::time::interval(Duration::from_millis(100));
    let end = tokio::time::sleep(Duration::from_secs(15));
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            Ok((mut link, _)) = door.accept() => {
                let mut said = [0; 64];
                let n = link.read(&mut said).await?;
                links.push(link);
                let life = life(std::str::from_utf8(&said[..n])?.trim())?;
                let place = &mut places[usize::try_from(life.worker.place)?];
                place.life = Some(life);
                recoveries.extend(place.killed.take().map(|at| at.elapsed().as_secs_f64() * 1e3));
            }
            Some(spawned) = spawns.join_next() => {
                let (place, unit) = spawned??;
                places[place].unit = Some(unit);
            }
            Some(sighting) = sightings.recv() => if let Sighting::Died { life, .. } = sighting
                && let Some(unit) = places[usize::try_from(life.worker.place)?].dead.remove(&life)
            {
                let backend = Arc::clone(&rig.backend);
                tokio::spawn(async move { backend.remove(&life, &unit).await });
            },
            _ = kills.tick() => {
                let alive = places.iter_mut().enumerate().find_map(|(place, state)| {
                    let (life, unit) = (state.life.take_if(|_| state.unit.is_some())?, state.unit.take()?);
                    state.killed = Some(Instant::now());
                    state.dead.insert(life.clone(), unit.clone());
                    Some((place, life, unit))
                });
                let Some((place, life, unit)) = alive else {
                    nobody += 1;
                    continue;
                };
                replace(place, u32::try_from(life.generation)? + 1, &mut spawns);
                let backend = Arc::clone(&rig.backend);
                tokio::spawn(async move { backend.signal(&life, &unit, 9).await });
            }
        }
    }
    while let Some(spawned) = spawns.join_next().await {
        spawned??;
    }
    print_figures("kill until the replacement dials", &mut recoveries);
    println!("{nobody} kills found nobody alive");
    Ok(())
}

/// What a storm knows of one place.
struct Place {
    /// Who has dialled the door.
    life: Option<Incarnation>,
    /// Who has been started.
    unit: Option<Unit>,
    killed: Option<Instant>,
    dead: BTreeMap<Incarnation, Unit>,
}

impl Place {
    const fn new() -> Self {
        Self { life: None, unit: None, killed: None, dead: BTreeMap::new() }
    }
}

fn print_figures(name: &str, millis: &mut [f64]) {
    millis.sort_by(f64::total_cmp);
    if let (Some(min), Some(median), Some(max)) =
        (millis.first(), millis.get(millis.len() / 2), millis.last())
    {
        println!("{name:34} min {min:6.1}  median {median:6.1}  max {max:6.1} ms  ({} times)", millis.len());
    }
}
