//! How workers reach the door: `link`, and the block `tunnel` that goes with one of its choices.
//!
//! What makes this more than five keys is that one file serves every backend. Pods share no directory with a door, so
//! kubernetes always means the tunnel; a block that is there for them is left aside where the command line chooses
//! another backend or link, and is a mistake where the file itself says that there is no tunnel.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use server::config;

use super::keys::Keys;
use super::mistake::Origin;
use super::raw::Spec;
use super::setting::{Block, Setting, given};
use super::units::{LONGEST_TIME, Size, Time};
use super::{BackendChoice, LinkChoice};

/// Where a door listens for workers unless the spec says otherwise.
const PORT: u16 = 7411;

/// How workers reach a door that they share no directory with: over TCP, which they dial.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tunnel {
    /// Where a door listens for workers. Left out: 0.0.0.0:7411 with backend: kubernetes, else 127.0.0.1:7411. With
    /// containers, loopback stands for the gateway of their network.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Setting<SocketAddr>")]
    listen: Option<Setting<SocketAddr>>,
    /// Whether what is said there is encrypted, and the door proves that it is one. Left out: true with backend:
    /// kubernetes, else false.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Setting<bool>")]
    tls: Option<Setting<bool>>,
    /// How often each side says that it is there.
    heartbeat: Setting<Time>,
    /// A peer that has not been heard of for so long is lost: at least three times the heartbeat.
    lost_after: Setting<Time>,
    /// Bytes of a turn that may be under way in each direction: 16KiB to 16MiB. Never less than what may be sent whole,
    /// which is a pool's clients.head and clients.buffered_body together.
    window: Setting<Size>,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            listen: None,
            tls: None,
            heartbeat: Setting::default_of(Time(Duration::from_secs(1))),
            lost_after: Setting::default_of(Time(Duration::from_secs(3))),
            window: Setting::default_of(Size(64 << 10)),
        }
    }
}

/// The link that `raw` comes to, if what it says can be read: to be said aloud by [`check`] where it is a mistake.
pub(super) fn link(raw: &Spec) -> Option<LinkChoice> {
    let asked = match &raw.link {
        Some(setting) => *setting.value.as_ref().ok()?,
        None => LinkChoice::Fd,
    };
    Some(if on_kubernetes(raw) { LinkChoice::Tunnel } else { asked })
}

/// Where the door of `raw` listens for workers, and who said so; `None` where it does not.
pub(super) fn listens(raw: &Spec) -> Option<(SocketAddr, Origin)> {
    let defaults = Block::default();
    let block = raw.tunnel.as_ref().unwrap_or(&defaults);
    let listen = listen_or_default(&block.value, on_kubernetes(raw));
    (link(raw)? == LinkChoice::Tunnel).then_some((listen.value.ok()?, listen.origin))
}

/// What `link` and `tunnel` come to: `Some(None)` is the fd link, `None` that something is wrong.
pub(super) fn check(keys: &mut Keys<'_>, raw: &Spec) -> Option<Option<config::Tunnel>> {
    let asked = match &raw.link {
        Some(setting) => Some(keys.value("link", setting)?),
        None => None,
    };
    let kubernetes = on_kubernetes(raw);
    if let (Some(LinkChoice::Fd), Some(setting)) = (asked, &raw.link)
        && kubernetes
        && !overridden(&setting.origin, &raw.backend.origin)
    {
        keys.note(
            "link",
            &setting.origin,
            "pods share no directory with a door, so there is no fd link with backend: kubernetes",
            "remove it, or write link: tunnel",
        );
        return None;
    }
    if kubernetes || asked == Some(LinkChoice::Tunnel) {
        let defaults = Block::default();
        let block = raw.tunnel.as_ref().unwrap_or(&defaults);
        return tunnel(&mut keys.section("tunnel"), &block.value, kubernetes).map(Some);
    }
    let by_flag = |origin: &Origin| matches!(origin, Origin::Flag(_));
    let chosen_by_flag =
        by_flag(&raw.backend.origin) || raw.link.as_ref().is_some_and(|link| by_flag(&link.origin));
    if let Some(block) = &raw.tunnel
        && !chosen_by_flag
    {
        keys.note(
            "tunnel",
            &Origin::from(block.place),
            "there is no tunnel with link: fd, which is what holds here",
            "write link: tunnel, or remove this block",
        );
        return None;
    }
    Some(None)
}

fn tunnel(keys: &mut Keys<'_>, raw: &Tunnel, kubernetes: bool) -> Option<config::Tunnel> {
    let listen = keys.value("listen", &listen_or_default(raw, kubernetes));
    let tls = keys.value("tls", &raw.tls.clone().unwrap_or(Setting::default_of(kubernetes)));
    let heartbeat = keys.within(
        "heartbeat",
        &raw.heartbeat,
        Time(Duration::from_millis(10))..=Time(Duration::from_secs(60)),
        "more often is noise, and more seldom tells too late that somebody is lost",
    );
    let lost_after = match heartbeat {
        // Its own bound is the heartbeat's.
        Some(Time(heartbeat)) => keys.within(
            "lost_after",
            &raw.lost_after,
            // Twice would be no slack: who is silent for half of it gets no turns, and one heartbeat that is lost is made
            // up for by the next, which takes its time to come.
            Time(heartbeat * 3)..=LONGEST_TIME,
            "a single heartbeat that is late must cost nobody",
        ),
        None => keys.value("lost_after", &raw.lost_after),
    };
    let window = keys.within(
        "window",
        &raw.window,
        Size(16 << 10)..=Size(16 << 20),
        "less makes every turn wait for its own acknowledgements, and more is memory, as much for each turn",
    );
    Some(config::Tunnel {
        listen: listen?,
        tls: tls?,
        heartbeat: heartbeat?.0,
        lost_after: lost_after?.0,
        window_bytes: u32::try_from(window?.0).ok()?,
    })
}

fn listen_or_default(raw: &Tunnel, kubernetes: bool) -> Setting<SocketAddr> {
    let everywhere = if kubernetes { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    raw.listen.clone().unwrap_or(Setting::default_of((everywhere, PORT).into()))
}

fn on_kubernetes(raw: &Spec) -> bool {
    raw.backend.value == Ok(BackendChoice::Kubernetes)
}

/// Whether a file says something that the command line has chosen to do without.
fn overridden(said: &Origin, by: &Origin) -> bool {
    matches!((said, by), (Origin::File(_), Origin::Flag(_)))
}

impl From<&config::Tunnel> for Tunnel {
    fn from(valid: &config::Tunnel) -> Self {
        Self {
            listen: Some(Setting::default_of(valid.listen)),
            tls: Some(Setting::default_of(valid.tls)),
            heartbeat: Setting::default_of(Time(valid.heartbeat)),
            lost_after: Setting::default_of(Time(valid.lost_after)),
            window: Setting::default_of(Size(valid.window_bytes.into())),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]
mod tests {
    use insta::assert_snapshot;

    use crate::spec::tests::overriding;
    use crate::spec::{Network, parse};

    use super::*;

    fn tunnel(text: &str) -> config::Tunnel {
        parse("bulkhead.yaml", &format!("{text}\npools: {{ web: {{}} }}")).unwrap().tunnel.expect("a tunnel")
    }

    fn mistakes(text: &str) -> String {
        let text = format!("{text}\npools: {{ web: {{}} }}");
        parse("bulkhead.yaml", &text).expect_err("this was taken for a good spec").to_string()
    }

    #[test]
    fn there_is_no_tunnel_unless_somebody_asks_for_one() {
        assert_eq!(parse("bulkhead.yaml", "pools: { web: {} }").unwrap().tunnel, None);
        let here = tunnel("link: tunnel");
        assert_eq!((here.listen.to_string().as_str(), here.tls), ("127.0.0.1:7411", false));
        assert_eq!((here.heartbeat, here.lost_after), (Duration::from_secs(1), Duration::from_secs(3)));
        assert_eq!(here.window_bytes, 64 << 10);
        let asked =
            tunnel("link: tunnel\ntunnel: { listen: 0.0.0.0:1, tls: true, heartbeat: 200ms, window: 1MiB }");
        assert_eq!((asked.listen.to_string().as_str(), asked.tls), ("0.0.0.0:1", true));
        assert_eq!((asked.heartbeat, asked.window_bytes), (Duration::from_millis(200), 1 << 20));
    }

    #[test]
    fn pods_always_have_the_tunnel_with_tls_and_are_reached_from_everywhere() {
        let pods = tunnel("backend: kubernetes");
        assert_eq!((pods.listen.to_string().as_str(), pods.tls), ("0.0.0.0:7411", true));
        assert!(!tunnel("backend: kubernetes\nlink: tunnel\ntunnel: { tls: false }").tls);
        assert_snapshot!(mistakes("backend: kubernetes\nlink: fd"), @"
        bulkhead.yaml:2:7: link: pods share no directory with a door, so there is no fd link with backend: kubernetes
            remove it, or write link: tunnel
        ");
    }

    #[test]
    fn a_tunnel_that_is_described_and_not_there_is_a_mistake() {
        assert_snapshot!(mistakes("tunnel: { tls: true }"), @"
        bulkhead.yaml:1:9: tunnel: there is no tunnel with link: fd, which is what holds here
            write link: tunnel, or remove this block
        ");
        assert_snapshot!(mistakes("link: fd\ntunnel:\n  tls: true"), @"
        bulkhead.yaml:3:3: tunnel: there is no tunnel with link: fd, which is what holds here
            write link: tunnel, or remove this block
        ");
    }

    #[test]
    fn one_file_serves_every_link() {
        let text = "backend: kubernetes\ntunnel: { tls: true }\npools: { web: {} }";
        assert_eq!(overriding(text, &["--backend=process"]).unwrap().tunnel, None);
        let dialled = overriding(text, &["--backend=process", "--link=tunnel"]).unwrap().tunnel.unwrap();
        assert_eq!((dialled.listen.to_string().as_str(), dialled.tls), ("127.0.0.1:7411", true));
        let text = "link: tunnel\ntunnel: { tls: true }\npools: { web: {} }";
        assert_eq!(overriding(text, &["--link=fd"]).unwrap().tunnel, None);
        let text = "link: fd\npools: { web: {} }";
        assert!(overriding(text, &["--backend=kubernetes"]).unwrap().tunnel.is_some());
        assert_snapshot!(overriding(text, &["--backend=kubernetes", "--link=fd"]).unwrap_err(), @"
        --link fd: link: pods share no directory with a door, so there is no fd link with backend: kubernetes
            remove it, or write link: tunnel
        ");
    }

    #[test]
    fn what_is_wrong_with_a_tunnel_is_all_named() {
        let text =
            "link: tunnel\ntunnel: { listen: here, tls: yes, heartbeat: 2s, lost_after: 3s, window: 1KiB }";
        assert_snapshot!(mistakes(text), @r#"
        bulkhead.yaml:2:19: tunnel.listen: "here" is not an address
            write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080 (names are not looked up; port 0 takes a free one)
        bulkhead.yaml:2:30: tunnel.tls: "yes" is not a yes or no
            write true or false
        bulkhead.yaml:2:62: tunnel.lost_after: 3s is too little
            use 6s to 720h: a single heartbeat that is late must cost nobody
        bulkhead.yaml:2:74: tunnel.window: 1KiB is too little
            use 16KiB to 16MiB: less makes every turn wait for its own acknowledgements, and more is memory, as much for each turn
        "#);
        assert_snapshot!(mistakes("link: tunnle\ntunnel: { tsl: true }"), @r#"
        bulkhead.yaml:2:11: tunnel.tsl: there is no key "tsl" here
            did you mean tls? The keys here are listen, tls, heartbeat, lost_after, window
        "#);
        assert_snapshot!(mistakes("link: tunnle"), @r#"
        bulkhead.yaml:1:7: link: "tunnle" is not a link
            write fd or tunnel
        "#);
        assert_snapshot!(mistakes("link: tunnel\ntunnel: { listen: 127.0.0.1:8080 }"), @"
        bulkhead.yaml:3:10: pools.web.listen: 0.0.0.0:8080 overlaps 127.0.0.1:8080, where the tunnel (tunnel.listen) listens already
            give one of them another port
        ");
    }

    #[test]
    fn a_tunnel_has_threads_of_its_own() {
        let told = |link| {
            let text = format!("link: {link}\npools: {{ web: {{ worker: {{ limits: {{ pids: 5 }} }} }} }}");
            parse("bulkhead.yaml", &text).err().map(|error| error.to_string())
        };
        assert_eq!(told("fd"), None);
        assert_snapshot!(told("tunnel").unwrap(), @"
        bulkhead.yaml:2:43: pools.web.worker.limits.pids: 5 is too little
            use 6 to 4000000: a worker of this model needs that many threads, three for its init, its main thread and signals, and two for its tunnel
        ");
    }

    #[test]
    fn a_container_that_dials_has_a_network() {
        let network = |text: &str| {
            let deployment = parse("bulkhead.yaml", text).unwrap();
            deployment.pools[0].worker.network.clone()
        };
        let bridge = Network::Named("bridge".to_owned());
        assert_eq!(network("backend: docker\nlink: tunnel\npools: { web: {} }"), bridge);
        assert_eq!(network("link: tunnel\npools: { web: {} }"), bridge);
        assert_eq!(network("backend: process\nlink: tunnel\npools: { web: {} }"), Network::None);
        assert_eq!(network("backend: kubernetes\npools: { web: {} }"), Network::None);
        assert_eq!(network("backend: docker\npools: { web: {} }"), Network::None);
        let told = |text| parse("bulkhead.yaml", text).expect_err("a good spec").to_string();
        let shut_in = "backend: docker\nlink: tunnel\npools: { web: { worker: { network: none } } }";
        assert_snapshot!(told(shut_in), @"
        bulkhead.yaml:3:36: pools.web.worker.network: a worker without a network cannot dial its door, and this deployment has link: tunnel
            write bridge, or another of the engine's networks; or write link: fd, which needs none
        ");
        let engine = "backend: kubernetes\npools: { web: { worker: { network: lan } } }";
        assert_snapshot!(told(engine), @"
        bulkhead.yaml:2:36: pools.web.worker.network: pods join no network of an engine, and this file says backend: kubernetes
            remove network, or write backend: docker
        ");
    }
}
