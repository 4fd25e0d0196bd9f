//! Showing groups.

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::describe_groups::{DescribedGroup, DescribedGroupMember};
use millstream_protocol::messages::list_groups::ListedGroup;

use super::coordinator::Coordinator;
use super::member::Member;
use super::state::State;

/// Kafka's name of the only type of group served here.
const CLASSIC: &str = "classic";
/// The caller did not ask what it may do.
const OPERATIONS_NOT_ASKED: i32 = i32::MIN;

impl Coordinator {
    /// The groups in one of `states` and of one of `types`; an empty filter lets all pass. Names compare in any case.
    #[must_use]
    pub fn list(&self, states: &[ByteString], types: &[ByteString]) -> Vec<ListedGroup> {
        let passes = |filter: &[ByteString], name: &str| {
            filter.is_empty() || filter.iter().any(|one| one.eq_ignore_ascii_case(name))
        };
        self.groups
            .values()
            .filter(|group| passes(states, group.state().name()) && passes(types, CLASSIC))
            .map(|group| ListedGroup {
                group_id: group.id.clone(),
                protocol_type: group.protocol_type.clone().unwrap_or_default(),
                group_state: ByteString::from_static(group.state().name()),
                group_type: ByteString::from_static(CLASSIC),
            })
            .collect()
    }

    /// Describes a group. One that does not exist is GROUP_ID_NOT_FOUND where the client knows that code (KIP-1043), else it is
    /// described as dead.
    #[must_use]
    pub fn describe(&self, group_id: &str, group_id_not_found_known: bool) -> DescribedGroup {
        let mut described = DescribedGroup {
            group_id: group_id.into(),
            group_state: ByteString::from_static(State::Dead.name()),
            authorized_operations: OPERATIONS_NOT_ASKED,
            ..DescribedGroup::default()
        };
        let Some(group) = self.groups.get(group_id) else {
            if group_id_not_found_known {
                described.error_code = ErrorCode::GroupIdNotFound.code();
                described.error_message = Some(format!("Group {group_id} not found.").into());
            }
            return described;
        };
        let agreed = group.protocol.clone().filter(|_| group.state() == State::Stable);
        let member = |member: &Member| DescribedGroupMember {
            member_id: member.id.clone(),
            group_instance_id: member.instance.clone(),
            client_id: member.client.id.clone(),
            client_host: member.client.host.clone(),
            member_metadata: agreed.as_ref().map(|protocol| member.metadata(protocol)).unwrap_or_default(),
            member_assignment: agreed.as_ref().map(|_| member.assignment.clone()).unwrap_or_default(),
        };
        described.group_state = ByteString::from_static(group.state().name());
        described.protocol_type = group.protocol_type.clone().unwrap_or_default();
        described.members = group.members.values().map(member).collect();
        described.protocol_data = agreed.clone().unwrap_or_default();
        described
    }
}
