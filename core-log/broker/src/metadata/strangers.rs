//! A directory of one cluster that is started with the servers of another.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use millstream_protocol::messages::DescribeClusterRequest;

use super::Metadata;
use super::lifecycle::CONTROLLERS;

/// Between two rounds while nobody has answered.
const AGAIN: Duration = Duration::from_secs(1);

impl Metadata {
    /// Asks the servers that this node was given which cluster they are of, until some have answered. Where all of those are of another
    /// one, this node would wait for them for ever, or go on in a cluster that nobody meant; it gives up then.
    pub(crate) async fn look_for_strangers(self: Arc<Self>, directory: PathBuf) {
        let Some(quorum) = &self.config.quorum else { return };
        let others = quorum.bootstrap.iter().filter(|server| Some(*server) != quorum.endpoint.as_ref());
        let others: Vec<_> = others.collect();
        while !others.is_empty() {
            let asking = others.iter().map(|server| async {
                let asked = DescribeClusterRequest { endpoint_type: CONTROLLERS, ..Default::default() };
                let told = self.links.call(server, asked).await.ok()?;
                (told.error_code == 0).then_some((*server, told.cluster_id))
            });
            let told: Vec<_> = join_all(asking).await.into_iter().flatten().collect();
            if told.iter().any(|(_, cluster)| *cluster == self.cluster_id) {
                return;
            }
            if let Some((server, theirs)) = told.first() {
                let (directory, own) = (directory.display(), &self.cluster_id);
                return self.give_up(format!(
                    "the directory {directory} is of cluster {own}, and {server} is of cluster {theirs}: give the servers of its own \
                     cluster (--join, controller.quorum.bootstrap.servers), or an empty directory"
                ));
            }
            self.env.sleep(AGAIN).await;
        }
    }
}
