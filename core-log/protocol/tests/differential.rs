//! The same bytes through our codec and through others: the `kafka-protocol` crate, and Kafka's own. All must read them, and write
//! them back unchanged.

mod common;

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use common::{Maker, Rng, table, through};
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable, Message as TheirMessage};
use millstream_protocol_codegen::schema::{Kind, Message};

/// Messages made up for each version of each message.
const ROUNDS: u64 = 24;

/// What their codec makes of the bytes; `None` where it does not know the message or the version.
fn through_theirs(message: &Message, version: i16, bytes: &Bytes) -> Option<anyhow::Result<Bytes>> {
    let key = message.key.and_then(|key| theirs::ApiKey::try_from(key).ok());
    let knows = |range: kafka_protocol::protocol::VersionRange| range.min <= version && version <= range.max;
    let mut input = bytes.clone();
    let mut output = BytesMut::new();
    let done = match message.kind {
        Kind::Request | Kind::Response if !knows(key?.valid_versions()) => return None,
        Kind::Request => theirs::RequestKind::decode(key?, &mut input, version)
            .and_then(|read| read.encode(&mut output, version)),
        Kind::Response => theirs::ResponseKind::decode(key?, &mut input, version)
            .and_then(|read| read.encode(&mut output, version)),
        _ => match message.name.as_str() {
            "ConsumerProtocolAssignment" => {
                plain::<theirs::ConsumerProtocolAssignment>(&mut input, &mut output, version)?
            }
            "ConsumerProtocolSubscription" => {
                plain::<theirs::ConsumerProtocolSubscription>(&mut input, &mut output, version)?
            }
            "DefaultPrincipalData" => {
                plain::<theirs::DefaultPrincipalData>(&mut input, &mut output, version)?
            }
            "EndTxnMarker" => plain::<theirs::EndTxnMarker>(&mut input, &mut output, version)?,
            "LeaderChangeMessage" => plain::<theirs::LeaderChangeMessage>(&mut input, &mut output, version)?,
            "SnapshotFooterRecord" => {
                plain::<theirs::SnapshotFooterRecord>(&mut input, &mut output, version)?
            }
            "SnapshotHeaderRecord" => {
                plain::<theirs::SnapshotHeaderRecord>(&mut input, &mut output, version)?
            }
            _ => return None,
        },
    };
    Some(done.map(|()| output.freeze()))
}

fn plain<M: TheirMessage + Decodable + Encodable>(
    input: &mut Bytes,
    output: &mut BytesMut,
    version: i16,
) -> Option<anyhow::Result<()>> {
    let known = M::VERSIONS.min <= version && version <= M::VERSIONS.max;
    known.then(|| M::decode(input, version).and_then(|read| read.encode(output, version)))
}

#[test]
fn both_codecs_read_and_write_the_same_bytes() {
    let mut compared = 0;
    let mut only_ours = BTreeSet::new();
    let mut faults = Vec::new();
    for message in &table() {
        for version in message.versions.first..=message.versions.last {
            for round in 0..ROUNDS {
                let mut rng = Rng::new(round << 32 | (version as u64) << 16 | message.name.len() as u64);
                let bytes = Bytes::from(Maker::make(message, version, &mut rng));
                let name = format!("{} v{version} round {round}", message.name);
                match through(message, version, bytes.clone()) {
                    Ok(again) if again == bytes => {}
                    Ok(again) => faults.push(format!("ours {name}: {bytes:?} became {again:?}")),
                    Err(error) => faults.push(format!("ours {name}: {error}: {bytes:?}")),
                }
                match through_theirs(message, version, &bytes) {
                    None => drop(only_ours.insert(format!("{} v{version}", message.name))),
                    Some(Ok(again)) if again == bytes => compared += 1,
                    Some(Err(error)) if format!("{error:#}").contains("version not supported") => {
                        only_ours.insert(format!("{} v{version}", message.name));
                    }
                    Some(Ok(again)) => faults.push(format!("theirs {name}: {bytes:?} became {again:?}")),
                    Some(Err(error)) => faults.push(format!("theirs {name}: {error:#}: {bytes:?}")),
                }
            }
        }
    }
    let first = faults.iter().take(12).cloned().collect::<Vec<String>>().join("\n");
    assert!(faults.is_empty(), "{} faults, first:\n{first}", faults.len());
    assert!(compared > 500 * ROUNDS, "{compared} messages compared; not known to theirs: {only_ours:?}");
}

/// Bytes that Apache Kafka 4.3.1's own codec reads and writes unchanged (`golden/CheckWithKafka.java` has shown it), for what the
/// `kafka-protocol` crate does not know: the records of the internal topics and the newest versions.
#[test]
fn we_read_and_write_what_kafka_does() {
    let table = table();
    let mut seen = BTreeSet::new();
    for line in include_str!("golden/kafka-4.3.1.txt").lines() {
        let [name, version, hex] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let version: i16 = version.parse().unwrap();
        let message = table.iter().find(|message| message.name == name).expect(name);
        let digits = (0..hex.len()).step_by(2);
        let bytes: Bytes = digits.map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        assert_eq!(through(message, version, bytes.clone()).expect(line), bytes, "{name} v{version}");
        seen.insert((name, version));
    }
    let kafkas = |message: &&Message| {
        !matches!(message.kind, Kind::Request | Kind::Response) && !message.name.starts_with("Raft")
    };
    for message in table.iter().filter(kafkas) {
        for version in message.versions.first..=message.versions.last {
            assert!(
                seen.contains(&(message.name.as_str(), version)),
                "no line for {} v{version}",
                message.name
            );
        }
    }
}
