//! The cluster: who votes for its metadata, who leads its partitions, and where their replicas are.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_protocol::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use millstream_protocol::messages::describe_quorum::{
    DescribeQuorumRequest, DescribeQuorumRequestPartitionData, DescribeQuorumRequestTopicData,
    DescribeQuorumResponse, ReplicaState,
};
use millstream_protocol::messages::elect_leaders::{ElectLeadersRequest, TopicPartitions};
use millstream_protocol::messages::{
    AddRaftVoterRequest, ListPartitionReassignmentsRequest, RemoveRaftVoterRequest, UnregisterBrokerRequest,
    add_raft_voter,
};
use millstream_protocol::{Endpoint, ErrorCode};
use millstream_record::{LeaderEpoch, Millis, NodeId, Offset, TopicPartition, Uuid};

use super::{Admin, outcome};
use crate::types::{Election, QuorumDescription, QuorumMember, Reassignment};
use crate::{ClientError, Result};

/// The topic that the quorum keeps.
const CLUSTER_METADATA: &str = "__cluster_metadata";

impl Admin {
    /// The quorum that keeps the metadata, as its leader sees it (KIP-595, KIP-853).
    ///
    /// # Errors
    /// When there is no leader, or it cannot be asked.
    pub fn describe_quorum(&self) -> BoxFuture<'_, Result<QuorumDescription>> {
        async move {
            let request = DescribeQuorumRequest {
                topics: vec![DescribeQuorumRequestTopicData {
                    topic_name: CLUSTER_METADATA.into(),
                    partitions: vec![DescribeQuorumRequestPartitionData::default()],
                }],
            };
            let answer = self.retry("describing the quorum", || async {
                let answer = self.cluster.ask_controller(request.clone()).await?;
                outcome(answer.error_code, "DescribeQuorum", "the quorum", answer.error_message.clone())?;
                Ok(answer)
            });
            read_quorum(answer.await?)
        }
        .boxed()
    }

    /// Lets `node`, with the directory that it runs on, vote on the metadata (KIP-853).
    ///
    /// # Errors
    /// When it does not catch up, or the request fails.
    pub fn add_voter<'a>(
        &'a self,
        node: NodeId,
        directory: Uuid,
        listener: &'a str,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            let request = AddRaftVoterRequest {
                cluster_id: None,
                timeout_ms: self.timeout_ms(),
                voter_id: node.0,
                voter_directory_id: directory,
                listeners: vec![add_raft_voter::Listener {
                    name: listener.into(),
                    host: endpoint.host.clone(),
                    port: endpoint.port,
                }],
                ack_when_committed: true,
            };
            let answer =
                self.retry("adding a voter", || self.cluster.ask_controller(request.clone())).await?;
            outcome(answer.error_code, "AddRaftVoter", &format!("node {node}"), answer.error_message)
        }
        .boxed()
    }

    /// Takes a voter out of the quorum (KIP-853).
    ///
    /// # Errors
    /// When it is no voter, or the last one; when the request fails.
    pub fn remove_voter(&self, node: NodeId, directory: Uuid) -> BoxFuture<'_, Result<()>> {
        async move {
            let request =
                RemoveRaftVoterRequest { cluster_id: None, voter_id: node.0, voter_directory_id: directory };
            let answer =
                self.retry("removing a voter", || self.cluster.ask_controller(request.clone())).await?;
            outcome(answer.error_code, "RemoveRaftVoter", &format!("node {node}"), answer.error_message)
        }
        .boxed()
    }

    /// Forgets a broker that will not come back. It leads and counts nowhere; partitions that it held keep it among their replicas
    /// until they are reassigned.
    ///
    /// # Errors
    /// When it is not registered, or the request fails.
    pub fn unregister_broker(&self, node: NodeId) -> BoxFuture<'_, Result<()>> {
        async move {
            let request = UnregisterBrokerRequest { broker_id: node.0 };
            let answer =
                self.retry("unregistering a broker", || self.cluster.ask_controller(request.clone())).await?;
            outcome(answer.error_code, "UnregisterBroker", &format!("node {node}"), answer.error_message)
        }
        .boxed()
    }

    /// Elects leaders of `partitions`, or of all; each with its own outcome (`ElectionNotNeeded` among them). When all are asked
    /// for, those that need no election are left out.
    ///
    /// # Errors
    /// When the request as a whole fails.
    pub fn elect_leaders<'a>(
        &'a self,
        election: Election,
        partitions: Option<&'a [TopicPartition]>,
    ) -> BoxFuture<'a, Result<BTreeMap<TopicPartition, Result<()>>>> {
        async move {
            let topic = |(topic, partitions): (&Arc<str>, Vec<i32>)| TopicPartitions {
                topic: (&**topic).into(),
                partitions,
            };
            let request = ElectLeadersRequest {
                election_type: match election {
                    Election::Preferred => 0,
                    Election::Unclean => 1,
                },
                topic_partitions: partitions
                    .map(|partitions| by_topic(partitions.iter()).into_iter().map(topic).collect()),
                timeout_ms: self.timeout_ms(),
            };
            let answer = self.retry("electing leaders", || async {
                let answer = self.cluster.ask_controller(request.clone()).await?;
                outcome(answer.error_code, "ElectLeaders", "the partitions", None)?;
                Ok(answer)
            });
            let results = answer.await?.replica_election_results.into_iter().flat_map(|topic| {
                let name: Arc<str> = Arc::from(&*topic.topic);
                topic.partition_result.into_iter().map(move |result| {
                    let at = TopicPartition::new(Arc::clone(&name), result.partition_id);
                    let done =
                        outcome(result.error_code, "ElectLeaders", &at.to_string(), result.error_message);
                    (at, done)
                })
            });
            Ok(results.collect())
        }
        .boxed()
    }

    /// Moves partitions to other replicas, the first of which is to lead; `None` takes a move under way back. Each with its own
    /// outcome; the data moves after the answer (see [`Admin::list_reassignments`]).
    ///
    /// # Errors
    /// When the request as a whole fails.
    pub fn alter_reassignments<'a>(
        &'a self,
        wanted: &'a BTreeMap<TopicPartition, Option<Vec<NodeId>>>,
    ) -> BoxFuture<'a, Result<BTreeMap<TopicPartition, Result<()>>>> {
        async move {
            let mut topics: BTreeMap<&Arc<str>, Vec<ReassignablePartition>> = BTreeMap::new();
            for (at, replicas) in wanted {
                topics.entry(&at.topic).or_default().push(ReassignablePartition {
                    partition_index: at.partition,
                    replicas: replicas.as_ref().map(|nodes| nodes.iter().map(|node| node.0).collect()),
                });
            }
            let topic =
                |(name, partitions): (&Arc<str>, _)| ReassignableTopic { name: (&**name).into(), partitions };
            let request = AlterPartitionReassignmentsRequest {
                timeout_ms: self.timeout_ms(),
                allow_replication_factor_change: true,
                topics: topics.into_iter().map(topic).collect(),
            };
            let answer = self.retry("moving partitions", || async {
                let answer = self.cluster.ask_controller(request.clone()).await?;
                let detail = answer.error_message.clone();
                outcome(answer.error_code, "AlterPartitionReassignments", "the partitions", detail)?;
                Ok(answer)
            });
            let results = answer.await?.responses.into_iter().flat_map(|topic| {
                let name: Arc<str> = Arc::from(&*topic.name);
                topic.partitions.into_iter().map(move |result| {
                    let at = TopicPartition::new(Arc::clone(&name), result.partition_index);
                    let api = "AlterPartitionReassignments";
                    let done = outcome(result.error_code, api, &at.to_string(), result.error_message);
                    (at, done)
                })
            });
            Ok(results.collect())
        }
        .boxed()
    }

    /// The partitions whose replicas are moving.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn list_reassignments(&self) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Reassignment>>> {
        async move {
            let request = ListPartitionReassignmentsRequest { timeout_ms: self.timeout_ms(), topics: None };
            let answer = self.retry("listing reassignments", || async {
                let answer = self.cluster.ask_controller(request.clone()).await?;
                let detail = answer.error_message.clone();
                outcome(answer.error_code, "ListPartitionReassignments", "the partitions", detail)?;
                Ok(answer)
            });
            let nodes = |ids: Vec<i32>| ids.into_iter().map(NodeId).collect();
            let moving = answer.await?.topics.into_iter().flat_map(|topic| {
                let name: Arc<str> = Arc::from(&*topic.name);
                topic.partitions.into_iter().map(move |found| {
                    let at = TopicPartition::new(Arc::clone(&name), found.partition_index);
                    let reassignment = Reassignment {
                        replicas: nodes(found.replicas),
                        adding: nodes(found.adding_replicas),
                        removing: nodes(found.removing_replicas),
                    };
                    (at, reassignment)
                })
            });
            Ok(moving.collect())
        }
        .boxed()
    }
}

fn by_topic<'a>(partitions: impl Iterator<Item = &'a TopicPartition>) -> BTreeMap<&'a Arc<str>, Vec<i32>> {
    let mut topics: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
    for at in partitions {
        topics.entry(&at.topic).or_default().push(at.partition);
    }
    topics
}

fn read_quorum(answer: DescribeQuorumResponse) -> Result<QuorumDescription> {
    let endpoints: BTreeMap<i32, Endpoint> = answer
        .nodes
        .into_iter()
        .filter_map(|node| {
            let listener = node.listeners.into_iter().next()?;
            Some((node.node_id, Endpoint { host: listener.host, port: listener.port }))
        })
        .collect();
    let state = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
    let state = state.ok_or_else(|| {
        ClientError::broker("DescribeQuorum", "the quorum", ErrorCode::UnknownTopicOrPartition)
    })?;
    outcome(state.error_code, "DescribeQuorum", "the quorum", state.error_message)?;
    let member = |replica: ReplicaState| QuorumMember {
        node: NodeId(replica.replica_id),
        directory: replica.replica_directory_id,
        endpoint: endpoints.get(&replica.replica_id).cloned(),
        log_end: Some(Offset(replica.log_end_offset)).filter(|end| end.0 >= 0),
        last_fetch: Some(Millis(replica.last_fetch_timestamp)).filter(|at| at.0 >= 0),
        last_caught_up: Some(Millis(replica.last_caught_up_timestamp)).filter(|at| at.0 >= 0),
    };
    Ok(QuorumDescription {
        leader: Some(NodeId(state.leader_id)).filter(|id| id.0 >= 0),
        leader_epoch: LeaderEpoch(state.leader_epoch),
        high_watermark: Offset(state.high_watermark),
        voters: state.current_voters.into_iter().map(member).collect(),
        observers: state.observers.into_iter().map(member).collect(),
    })
}
