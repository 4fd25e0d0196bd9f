//! Somebody who changes settings of topics while everybody works, and has them all back at their defaults at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_client::{Admin, AlterConfig, ConfigResource};

use super::{SHORT, Scene, TOPIC};

/// Between two looks at whether a change is seen.
const LOOK: Duration = Duration::from_millis(300);
/// Looks in a row that must find nothing changed: what was asked for twice may take effect a second time.
const UNCHANGED: u32 = 5;
/// Clocks differ by an hour at most, and no world lasts as long: nothing is old before this.
const RETENTION_MIN_MS: u64 = 3 * 3_600_000;
/// More than any world writes.
const RETENTION_MIN_BYTES: u64 = 100 << 20;
/// The least that a topic may have.
const SEGMENT_MIN_BYTES: u64 = 1 << 20;
/// What is changed in the topic that everybody writes to.
const CHANGED: [&str; 4] = ["retention.ms", "retention.bytes", "segment.bytes", "segment.ms"];
/// And this, where it may be.
const MIN_INSYNC: &str = "min.insync.replicas";

/// How far settings may be changed.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The least and the most of `min.insync.replicas`, where it may be changed.
    pub min_insync: Option<(u64, u64)>,
    /// Whether there is the topic with short retention.
    pub short: bool,
}

impl Bounds {
    fn changed(&self) -> impl Iterator<Item = &'static str> {
        CHANGED.into_iter().chain(self.min_insync.map(|_| MIN_INSYNC))
    }
}

/// Changes something `rounds` times, and then has everything at its default.
pub async fn change(scene: Scene, bounds: Bounds, rounds: u64) {
    let (env, client) = scene.client("settings");
    let admin = client.admin();
    let before = loop {
        match values(&admin).await {
            Ok(values) => break values,
            Err(why) => tracing::debug!(why, "the settings are not known yet"),
        }
        env.sleep(LOOK).await;
    };
    for _ in 0..rounds {
        scene.dither(&env, 1_500).await;
        let (topic, changes) = draw(&scene, bounds);
        let done = admin.incremental_alter_configs(&ConfigResource::Topic(topic.into()), &changes).await;
        if done.is_ok() {
            scene.history.lock().changed_settings();
        }
        tracing::debug!(?done, ?changes, "settings changed");
    }
    let mut unchanged = 0;
    while unchanged < UNCHANGED {
        match values(&admin).await {
            Ok(values) if values == before => unchanged += 1,
            values => {
                tracing::debug!(?values, "the settings are not at their defaults yet");
                unchanged = 0;
                let back: Vec<_> =
                    bounds.changed().map(|name| AlterConfig::Delete(name.to_owned())).collect();
                let done = admin.incremental_alter_configs(&ConfigResource::Topic(TOPIC.into()), &back).await;
                tracing::debug!(?done, "back to the defaults");
            }
        }
        env.sleep(LOOK).await;
    }
}

/// The next change.
fn draw(scene: &Scene, bounds: Bounds) -> (&'static str, Vec<AlterConfig>) {
    let below = |bound| scene.sim.below(bound);
    let set = |name: &str, value: u64| AlterConfig::Set(name.to_owned(), value.to_string());
    if bounds.short && below(4) == 0 {
        return (SHORT.0, vec![set("retention.ms", 500 + below(3_000)), set("segment.ms", 200 + below(600))]);
    }
    let min_insync = |(least, most)| vec![set(MIN_INSYNC, least + below(most - least + 1))];
    let changes = match below(6) {
        0 => vec![set("retention.ms", RETENTION_MIN_MS + below(1 << 30))],
        1 => vec![set("retention.bytes", RETENTION_MIN_BYTES + below(1 << 30))],
        2 => vec![
            set("segment.bytes", SEGMENT_MIN_BYTES + below(1 << 20)),
            set("segment.ms", 200 + below(2_000)),
        ],
        3 | 4 if bounds.min_insync.is_some() => bounds.min_insync.map(min_insync).unwrap_or_default(),
        _ => {
            let names: Vec<&str> = bounds.changed().collect();
            vec![AlterConfig::Delete(names[below(names.len() as u64) as usize].to_owned())]
        }
    };
    (TOPIC, changes)
}

/// What the controller says of the settings that are changed.
async fn values(admin: &Admin) -> Result<BTreeMap<String, Option<String>>, String> {
    let resource = ConfigResource::Topic(TOPIC.into());
    let entries = admin.describe_configs(&resource).await.map_err(|error| error.to_string())?;
    let is_changed = |name: &str| name == MIN_INSYNC || CHANGED.contains(&name);
    let changed = entries.into_iter().filter(|entry| is_changed(&entry.name));
    Ok(changed.map(|entry| (entry.name.to_string(), entry.value.map(|value| value.to_string()))).collect())
}
