//! `millstream groups`: list, describe, delete.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use millstream_client::{Admin, IsolationLevel, OffsetSpec};
use millstream_env::Env;

use crate::door::DoorArgs;
use crate::screen;
use crate::table::Table;

/// What stands where there is nothing to tell.
const NOTHING: &str = "-";

/// List, describe and delete consumer groups.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    door: DoorArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Show all groups (what `groups` alone does).
    List,
    /// Show the members of a group, its committed offsets and how far it lags behind.
    Describe {
        /// The group.
        group: String,
    },
    /// Delete groups without members, and their committed offsets.
    Delete {
        /// The groups.
        #[arg(required = true)]
        groups: Vec<String>,
    },
}

/// Runs the command.
pub(crate) async fn execute(args: Args, env: Env) -> anyhow::Result<ExitCode> {
    let door = args.door.open(env).await?;
    let action = args.action.unwrap_or(Action::List);
    let deletes = matches!(action, Action::Delete { .. });
    let client = if deletes { door.client("millstream-groups") } else { door.looking("millstream-groups") };
    act(&client.admin(), action).await?;
    drop(client);
    door.close().await?;
    Ok(ExitCode::SUCCESS)
}

async fn act(admin: &Admin, action: Action) -> anyhow::Result<()> {
    match action {
        Action::List => {
            let mut table = Table::new(["group", "state", "type"]);
            for group in admin.list_groups().await? {
                table.row([&group.group_id, &group.state, &group.protocol_type]);
            }
            screen::line(&table);
        }
        Action::Describe { group } => describe(admin, &group).await?,
        Action::Delete { groups } => {
            for group in groups {
                admin.delete_group(&group).await?;
                screen::line(format_args!("deleted {group}"));
            }
        }
    }
    Ok(())
}

async fn describe(admin: &Admin, name: &str) -> anyhow::Result<()> {
    let (mut owner, mut idle) = (BTreeMap::new(), Vec::new());
    for group in admin.describe_groups(&[name]).await? {
        if let Some(error) = group.error {
            anyhow::bail!("group {name} cannot be described: {error}");
        }
        screen::line(format_args!(
            "group {}  state {}  assignor {}",
            group.group_id, group.state, group.protocol
        ));
        for member in group.members {
            if member.assignment.is_empty() {
                idle.push(member);
                continue;
            }
            for partition in &member.assignment {
                owner.insert(partition.clone(), (member.member_id.clone(), member.host.clone()));
            }
        }
    }
    let committed = admin.group_offsets(name).await?;
    let partitions: BTreeSet<_> = committed.keys().chain(owner.keys()).collect();
    let ends = partitions.iter().map(|partition| ((*partition).clone(), OffsetSpec::Latest)).collect();
    let ends = admin.list_offsets(&ends, IsolationLevel::ReadUncommitted).await?;
    let mut table = Table::new(["topic", ">partition", ">committed", ">end", ">lag", "member", "host"]);
    for partition in partitions {
        let at = committed.get(partition).map(|at| at.offset.0);
        let end = match ends.get(partition) {
            Some(Ok(Some(found))) => Some(found.offset.0),
            _ => None,
        };
        let text = |value: Option<i64>, none: &str| value.map_or_else(|| none.into(), |v| v.to_string());
        // Without a commit there is no lag to tell: where a member would begin is its own setting.
        let lag = match (at, end) {
            (None, _) => NOTHING.to_owned(),
            (Some(at), end) => text(end.map(|end| (end - at).max(0)), "?"),
        };
        let (member, host) = owner.get(partition).map_or((NOTHING, NOTHING), |(member, host)| (member, host));
        table.row([
            partition.topic.as_ref(),
            &partition.partition.to_string(),
            &text(at, NOTHING),
            &text(end, "?"),
            &lag,
            member,
            host,
        ]);
    }
    for member in idle {
        table.row([NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, &member.member_id, &member.host]);
    }
    screen::line(&table);
    Ok(())
}
