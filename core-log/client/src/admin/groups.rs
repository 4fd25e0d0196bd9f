//! Groups and their offsets.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::delete_groups::DeleteGroupsRequest;
use millstream_protocol::messages::describe_groups::{
    DescribeGroupsRequest, DescribedGroup, DescribedGroupMember,
};
use millstream_protocol::messages::list_groups::{ListGroupsRequest, ListedGroup};

use super::{Admin, outcome};
use crate::assignor::read_assignment;
use crate::cluster::{CoordinatorKind, coordinator_moved};
use crate::offsets::Missing;
use crate::{GroupDescription, GroupListing, GroupMember, GroupMetadata, Offsets, Result, offsets};

/// The protocol type of groups of consumers.
const CONSUMER: &str = "consumer";

impl Admin {
    /// All groups of all brokers.
    ///
    /// # Errors
    /// When a broker does not answer.
    pub fn list_groups(&self) -> BoxFuture<'_, Result<Vec<GroupListing>>> {
        async move {
            let found = self.retry("listing groups", || async {
                let metadata = self.cluster.refresh(self.cluster.metadata().version).await?;
                let mut found = BTreeMap::new();
                for broker in metadata.brokers.values() {
                    let answer =
                        self.cluster.links.call(&broker.endpoint, ListGroupsRequest::default()).await?;
                    outcome(answer.error_code, "ListGroups", &broker.endpoint.to_string(), None)?;
                    found.extend(
                        answer.groups.into_iter().map(|group| (group.group_id.clone(), read_listing(group))),
                    );
                }
                Ok(found)
            });
            Ok(found.await?.into_values().collect())
        }
        .boxed()
    }

    /// Describes classic groups.
    ///
    /// # Errors
    /// When a coordinator does not answer.
    pub fn describe_groups<'a>(
        &'a self,
        groups: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<GroupDescription>>> {
        async move {
            let mut described = Vec::with_capacity(groups.len());
            for group in groups {
                let id = ByteString::from(*group);
                let request =
                    DescribeGroupsRequest { groups: vec![id.clone()], ..DescribeGroupsRequest::default() };
                let answer = self.retry("describing a group", || async {
                    let answer = self.ask_coordinator(&id, request.clone()).await?;
                    for group in &answer.groups {
                        if ErrorCode::from_code(group.error_code).is_retriable() {
                            self.cluster.forget_coordinator(CoordinatorKind::Group, &id);
                            outcome(group.error_code, "DescribeGroups", &id, group.error_message.clone())?;
                        }
                    }
                    Ok(answer)
                });
                described.extend(answer.await?.groups.into_iter().map(read_group));
            }
            Ok(described)
        }
        .boxed()
    }

    /// Deletes an empty group with its offsets.
    ///
    /// # Errors
    /// When the group has members, or does not exist.
    pub fn delete_group<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            let id = ByteString::from(group);
            let request = DeleteGroupsRequest { groups_names: vec![id.clone()] };
            self.retry("deleting a group", || async {
                let answer = self.ask_coordinator(&id, request.clone()).await?;
                let done = answer
                    .results
                    .into_iter()
                    .try_for_each(|done| outcome(done.error_code, "DeleteGroups", &done.group_id, None));
                done.inspect_err(|error| {
                    if coordinator_moved(error) {
                        self.cluster.forget_coordinator(CoordinatorKind::Group, &id);
                    }
                })
            })
            .await
        }
        .boxed()
    }

    /// All committed offsets of a group.
    ///
    /// # Errors
    /// When the coordinator does not answer.
    pub async fn group_offsets(&self, group: impl Into<ByteString>) -> Result<Offsets> {
        offsets::fetch_committed(&self.cluster, &self.cluster.links, &group.into(), None).await
    }

    /// Sets committed offsets of a group without members.
    ///
    /// # Errors
    /// When the group has members, or the request fails.
    pub async fn alter_group_offsets(&self, group: impl Into<ByteString>, offsets: &Offsets) -> Result<()> {
        let group = GroupMetadata::unmanaged(group);
        offsets::commit(&self.cluster, &self.cluster.links, &group, offsets, Missing::Await).await
    }

    async fn ask_coordinator<R: millstream_protocol::Rpc>(
        &self,
        group: &ByteString,
        request: R,
    ) -> Result<R::Response> {
        let endpoint = self.cluster.coordinator(CoordinatorKind::Group, group).await?;
        self.cluster.links.call(&endpoint, request).await.inspect_err(|error| {
            if coordinator_moved(error) {
                self.cluster.forget_coordinator(CoordinatorKind::Group, group);
            }
        })
    }
}

fn read_listing(group: ListedGroup) -> GroupListing {
    GroupListing { group_id: group.group_id, protocol_type: group.protocol_type, state: group.group_state }
}

fn read_group(group: DescribedGroup) -> GroupDescription {
    let of_consumers = group.protocol_type == CONSUMER;
    GroupDescription {
        members: group.members.into_iter().map(|member| read_member(member, of_consumers)).collect(),
        error: Some(ErrorCode::from_code(group.error_code)).filter(|code| !code.is_none()),
        group_id: group.group_id,
        state: group.group_state,
        protocol_type: group.protocol_type,
        protocol: group.protocol_data,
    }
}

fn read_member(member: DescribedGroupMember, of_consumers: bool) -> GroupMember {
    // What a foreign assignor wrote may be unreadable; the member is still worth showing.
    let assignment = if of_consumers { read_assignment(member.member_assignment).ok() } else { None };
    GroupMember {
        member_id: member.member_id,
        group_instance_id: member.group_instance_id,
        client_id: member.client_id,
        host: member.client_host,
        assignment: assignment.map(|assignment| assignment.partitions).unwrap_or_default(),
    }
}
