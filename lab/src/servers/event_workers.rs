//! Event workers: one event loop in each of a few processes under a master (NGINX).
//!
//! A worker has one thread. It never waits for one client: whenever a call would block, it turns to whoever has
//! something for it. A client costs a task of some hundred bytes, and thousands fit into one worker. To block
//! (`/work`) means to come back to this client later, so even that holds nobody up. To compute (`/cpu`) is another
//! matter: the loop is cooperative, nobody takes the processor from a task that does not give it up, and all clients of
//! the worker wait.
//!
//! It costs almost nothing for each client, and discipline: every library must be one that never blocks.
//!
//! It fails one worker at a time: a fault takes all clients of one worker along, and these are many. The master
//! starts the worker again. A hang or a greedy task fails nobody and stalls all of the worker's clients, and nobody ends it.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;

use server::apps::demo::{self, Act};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Child, Protocol, accept_async, http, master};

pub(super) fn serve(listener: &TcpListener, protocol: Protocol, workers: usize) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    master::keep(workers, Child::EventWorker(protocol), listener.as_fd())
}

/// What a worker does.
pub(super) fn child(listener: TcpListener, protocol: Protocol) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let client = accept_async(&listener).await?;
            tokio::task::spawn_local(async move {
                match protocol {
                    Protocol::Http => speak_http(client).await,
                    Protocol::Echo => echo(client).await,
                }
            });
        }
    }))
}

async fn speak_http(mut client: TcpStream) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        while let Some(request) = http::parse(&bytes, client.peer_addr()?)? {
            bytes.drain(..request.len);
            let (status, text) = match request.act {
                Act::Work(time) => {
                    // The timer's shortest sleep is a millisecond.
                    if !time.is_zero() {
                        tokio::time::sleep(time).await;
                    }
                    (200, demo::worked(time))
                }
                act => demo::at_once(act),
            };
            client.write_all(&http::answer(status, &text, request.keep_alive)).await?;
            if !request.keep_alive {
                return Ok(());
            }
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

async fn echo(mut client: TcpStream) -> io::Result<()> {
    let mut answer = Vec::with_capacity(4096);
    loop {
        answer.clear();
        answer.extend_from_slice(b"Echo: ");
        if client.read_buf(&mut answer).await? == 0 {
            return Ok(());
        }
        client.write_all(&answer).await?;
    }
}
