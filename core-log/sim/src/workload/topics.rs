//! Topics that come and go beside the others, also under the same name.

use millstream_client::{NewTopic, ProducerConfig, ProducerRecord};

use super::Scene;

/// Creates, writes and deletes `rounds` topics.
pub async fn come_and_go(scene: Scene, rounds: u64) {
    let (env, client) = scene.client("admin");
    let admin = client.admin();
    for round in 0..rounds {
        let name = format!("passing-{}", round % 2);
        let created = admin.create_topics(&[NewTopic::new(name.as_str(), 2)]).await;
        tracing::debug!(?created, name, "created");
        if let Ok(producer) = client.producer(ProducerConfig::default()) {
            for _ in 0..5 {
                if let Ok(delivery) =
                    producer.send(ProducerRecord::new(name.as_str(), scene.payload(0))).await
                {
                    drop(delivery);
                }
            }
        }
        scene.dither(&env, 500).await;
        let deleted = admin.delete_topics(&[name.as_str()]).await;
        tracing::debug!(?deleted, name, "deleted");
        scene.dither(&env, 300).await;
    }
}
