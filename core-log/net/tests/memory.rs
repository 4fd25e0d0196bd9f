//! Memory under connections that announce and send much, and finish nothing. Alone in its file: it looks at the whole process.

mod common;

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use common::{SOON, name_of, world};
use futures::future::{join, join_all};
use millstream_net::NetConfig;
use millstream_protocol::messages::{MetadataRequest, metadata};
use millstream_protocol::{Ctx, Link, Receipt};
use tokio::io::AsyncWriteExt;

const MIB: usize = 1 << 20;

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn ask(link: &dyn Link, name: &str) -> Receipt {
    let topic = metadata::MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
    link.call(Ctx::local("test".into()), request.into())
}

#[test]
fn frames_that_never_end_take_bounded_memory_and_are_closed() {
    let config = NetConfig {
        max_buffered_bytes: 64 * MIB,
        max_request_bytes: 64 * MIB,
        stall_timeout: Duration::from_millis(500),
        ..Default::default()
    };
    world(config, async |world| {
        let link = world.dial().await;
        let patient = world.dial().await;
        let waits = ask(&*patient, "wait");
        world.wait_until("it waits", || !world.service.waiting.lock().is_empty()).await;
        let before = resident_bytes();
        let chunk = Bytes::from(vec![0; MIB]);
        let over = Cell::new(false);
        let floods = join_all((0..12).map(|_| async {
            let mut stream = world.connect().await;
            let announced = (60 * MIB as u32).to_be_bytes();
            stream.write_all(&announced).await.unwrap();
            for _ in 0..59 {
                if stream.write_all(&chunk).await.is_err() {
                    break; // closed, for want of memory or of progress
                }
            }
            world.until_closed(&mut stream).await
        }));
        let flood = async {
            let sent = floods.await;
            over.set(true);
            sent
        };
        let (mut most, mut asked) = (0, 0);
        let asking = async {
            while !over.get() {
                let answer = world.env.timeout(Duration::from_secs(1), ask(&*link, "small")).await;
                assert_eq!(name_of(answer.expect("others are answered within a second")), "small");
                most = most.max(resident_bytes().saturating_sub(before));
                asked += 1;
            }
        };
        let (sent, ()) = world.env.timeout(4 * SOON, join(flood, asking)).await.expect("all are closed");
        assert!(sent.iter().all(Vec::is_empty));
        assert!(asked >= 20, "others were answered {asked} times only");
        // What they hold, what is being moved as they grow, and the sockets' own.
        assert!(most < 160 * MIB, "{} MiB", most / MIB);
        world.service.release();
        assert_eq!(name_of(waits.await), "wait", "who waited all the while is answered");
        world.stop.send(()).unwrap();
    });
}
