//! What a node is told at start, in Kafka's words.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use millstream_broker::{BrokerConfig, ListenerEndpoint, QuorumConfig};
use millstream_machine::config::{Static, broker_definition, broker_definitions};
use millstream_machine::metadata::SupportedFeatures;
use millstream_net::NetConfig;
use millstream_protocol::Endpoint;
use millstream_protocol::versions::Audience;

use crate::properties;
use crate::{NodeError, Result};

/// Names that differ in more characters than this are not worth suggesting.
const SUGGESTION_DISTANCE: usize = 6;
/// Where a cluster is found that is there already.
const SERVERS: &str = "controller.quorum.bootstrap.servers";
const ADVERTISED: &str = "advertised.listeners";
const AUTO_JOIN: &str = "controller.quorum.auto.join.enable";
/// The words of `process.roles`.
const BROKER: &str = "broker";
const CONTROLLER: &str = "controller";
/// What a listener is called that was given as `host:port` only.
const PLAINTEXT: &str = "PLAINTEXT";

/// What a node is told at start: Kafka's properties, each checked as it is set.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    data_dir: PathBuf,
    listen: Vec<Listen>,
    properties: Static,
    supported_features: SupportedFeatures,
}

/// An address that the node listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Name of the listener.
    pub name: String,
    /// `host:port`; port 0 picks a free one.
    pub address: Endpoint,
}

impl NodeConfig {
    /// Kafka's defaults on `data_dir`, without a listener.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: Vec::new(),
            properties: Static::new(),
            supported_features: SupportedFeatures::default(),
        }
    }

    /// Where everything is kept (`log.dirs`).
    #[must_use]
    pub fn data_dir(&self) -> &PathBuf {
        &self.data_dir
    }

    /// What the node listens on (`listeners`); empty for a node that is reached in process only.
    #[must_use]
    pub fn listen(&self) -> &[Listen] {
        &self.listen
    }

    /// Sets one property, by Kafka's name.
    ///
    /// # Errors
    /// [`NodeError::Config`] for a name that is not known, with the nearest one that is, and for a value that does not fit.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let wrong = |why: String| NodeError::Config(vec![why]);
        let key = if key == "broker.id" { "node.id" } else { key };
        let Some(definition) = broker_definition(key) else { return Err(wrong(unknown(key))) };
        definition.validate(value).map_err(wrong)?;
        check_served(key, value.trim()).map_err(wrong)?;
        match key {
            "log.dirs" | "log.dir" => self.data_dir = one_directory(value).map_err(wrong)?,
            "listeners" => self.listen = parse_listeners(value).map_err(wrong)?,
            ADVERTISED => check_advertised(value).map_err(wrong)?,
            SERVERS => drop(parse_servers(value).map_err(wrong)?),
            _ => {}
        }
        self.properties.insert(key.to_owned(), value.trim().to_owned());
        Ok(())
    }

    /// Reads the text of a properties file over this config; `name` is said in errors.
    ///
    /// # Errors
    /// [`NodeError::Config`] with everything that is wrong, each with its line.
    pub fn apply_properties(&mut self, name: &str, text: &str) -> Result<()> {
        let mut wrong = Vec::new();
        for property in properties::parse(text) {
            if let Err(NodeError::Config(whys)) = self.set(&property.key, &property.value) {
                wrong.extend(whys.into_iter().map(|why| format!("{name}:{}: {why}", property.line)));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(NodeError::Config(wrong)) }
    }

    /// Has the node support other levels of a feature than this build does, as an older or a newer build would: for tests of upgrades, so
    /// there is no property for it.
    pub fn support_feature(&mut self, name: &'static str, lowest: i16, highest: i16) {
        self.supported_features = std::mem::take(&mut self.supported_features).with(name, lowest, highest);
    }

    /// The listeners that serve clients: all but those that `controller.listener.names` keeps for controllers.
    pub(crate) fn client_listeners(&self) -> Vec<Listen> {
        let controllers = self.properties.get("controller.listener.names").map_or("", String::as_str);
        let is_client = |listen: &&Listen| !controllers.split(',').any(|name| name.trim() == listen.name);
        self.listen.iter().filter(is_client).cloned().collect()
    }

    /// The listener on which controllers and brokers ask each other, if this node is to be one of several.
    pub(crate) fn controller_listener(&self) -> Option<Listen> {
        let name = self.properties.get("controller.listener.names")?.split(',').next()?.trim();
        self.listen.iter().find(|listen| listen.name == name).cloned()
    }

    /// How connections to a listener are served.
    pub(crate) fn net(&self, listener: &Listen) -> NetConfig {
        let default = NetConfig::default();
        let number = |name: &str| self.properties.get(name).and_then(|text| text.parse::<u64>().ok());
        let size =
            |name: &str, default| number(name).and_then(|n| usize::try_from(n).ok()).unwrap_or(default);
        NetConfig {
            listener: listener.name.as_str().into(),
            audience: match self.controller_listener() {
                Some(controllers) if controllers.name == listener.name => Audience::Controllers,
                _ => Audience::Clients,
            },
            max_request_bytes: size("socket.request.max.bytes", default.max_request_bytes),
            max_connections: size("max.connections", default.max_connections),
            idle_timeout: number("connections.max.idle.ms")
                .map_or(default.idle_timeout, Duration::from_millis),
            ..default
        }
    }

    /// The broker's part, for a node that listens on `bound`: what it advertises is `advertised.listeners`, or else that.
    pub(crate) fn broker_config(&self, bound: &[Listen]) -> BrokerConfig {
        let advertised = self.properties.get(ADVERTISED).and_then(|text| parse_listeners(text).ok());
        let of_bound = |name: &str| bound.iter().find(|listen| listen.name == name);
        let advertise = |listen: Listen| {
            let mut endpoint = listen.address;
            if endpoint.port == 0 {
                endpoint.port = of_bound(&listen.name).map_or(0, |bound| bound.address.port);
            }
            if is_any(&endpoint) {
                let port = endpoint.port;
                tracing::warn!(
                    "clients are told localhost:{port}, since `listeners` names every address; set {ADVERTISED} for those on other machines"
                );
                endpoint.host = "localhost".into(); // nobody can connect to "any address"
            }
            ListenerEndpoint { name: listen.name.into(), endpoint }
        };
        let all = advertised.unwrap_or_else(|| bound.to_vec()).into_iter().map(advertise);
        let controllers = self.controller_listener().map(|listen| listen.name);
        let is_controllers = |one: &ListenerEndpoint| controllers.as_deref() == Some(&*one.name);
        let (of_controllers, listeners): (Vec<_>, Vec<_>) = all.partition(is_controllers);
        // Where only clients' addresses are advertised, controllers are reached where they listen.
        let bound_controllers = controllers.as_deref().and_then(of_bound).cloned().map(advertise);
        let quorum = self.quorum(of_controllers.into_iter().next().or(bound_controllers));
        BrokerConfig {
            supported_features: self.supported_features.clone(),
            ..BrokerConfig::from_properties(self.properties.clone(), listeners, quorum)
        }
    }

    /// The node's place in a cluster; none for one that is alone.
    fn quorum(&self, controllers: Option<ListenerEndpoint>) -> Option<QuorumConfig> {
        if controllers.is_none() && !self.is_broker_only() {
            return None;
        }
        let text = |name: &str| self.properties.get(name).map_or("", String::as_str);
        let named = text("controller.listener.names").split(',').next().unwrap_or_default();
        Some(QuorumConfig {
            listener: controllers
                .as_ref()
                .map_or_else(|| named.trim().to_owned(), |one| one.name.to_string()),
            endpoint: controllers.map(|one| one.endpoint),
            is_broker: self.roles().is_none_or(|roles| roles.contains(BROKER)),
            bootstrap: self.servers(),
            auto_join: text(AUTO_JOIN) == "true",
        })
    }

    /// `controller.quorum.bootstrap.servers`, each of which was judged when it was set.
    fn servers(&self) -> Vec<Endpoint> {
        let set = self.properties.get(SERVERS).map(|text| parse_servers(text));
        set.and_then(Result::ok).unwrap_or_default()
    }

    /// `process.roles`, where it is set.
    fn roles(&self) -> Option<BTreeSet<&str>> {
        let roles = self.properties.get("process.roles")?;
        Some(roles.split(',').map(str::trim).filter(|role| !role.is_empty()).collect())
    }

    fn is_broker_only(&self) -> bool {
        self.roles().is_some_and(|roles| !roles.contains(CONTROLLER))
    }

    /// Looks whether the properties fit each other.
    ///
    /// # Errors
    /// [`NodeError::Config`] with what does not.
    pub(crate) fn check(&self) -> Result<()> {
        let controllers = self.controller_listener();
        let joins = self.properties.get(AUTO_JOIN).is_some_and(|value| value == "true");
        let mut wrong = Vec::new();
        if joins && controllers.is_some() && self.servers().is_empty() {
            wrong.push(format!(
                "`{AUTO_JOIN} = true`, but `{SERVERS}` (--join) names no server: write its controllers as HOST:PORT, with commas between"
            ));
        }
        if (controllers.is_some() || self.is_broker_only()) && !self.properties.contains_key(ADVERTISED) {
            let everywhere = self.listen.iter().filter(|listen| is_any(&listen.address));
            wrong.extend(everywhere.map(|Listen { name, address }| {
                format!(
                    "`listeners` has {name} on {address}, every address, which others in a cluster cannot connect to: set \
                     `{ADVERTISED} = {name}://HOST:PORT,...` to where they reach this node, or listen on that address"
                )
            }));
        }
        let Some(roles) = self.roles() else { return listed(wrong) };
        let (broker, controller) = (roles.contains(BROKER), roles.contains(CONTROLLER));
        let clients = self.client_listeners();
        if controller && controllers.is_none() {
            wrong.push(
                "a controller needs a listener: name it in `controller.listener.names`, with its address in `listeners`".to_owned(),
            );
        }
        if !controller && let Some(listener) = controllers {
            wrong.push(format!(
                "`listeners` has {}, which is for controllers, but `process.roles = broker` says that this node is none; \
                 take it out, or add the role",
                listener.name
            ));
        }
        if !controller && self.servers().is_empty() {
            wrong.push(format!(
                "a broker that is no controller has to be told where one is: set `{SERVERS}` (--join)"
            ));
        }
        if !broker && let Some(listener) = clients.first() {
            wrong.push(format!(
                "`listeners` has {}, which is for clients, but `process.roles = controller` says that this node serves none; \
                 take it out, or add the role",
                listener.name
            ));
        }
        listed(wrong)
    }
}

fn listed(wrong: Vec<String>) -> Result<()> {
    if wrong.is_empty() { Ok(()) } else { Err(NodeError::Config(wrong)) }
}

fn unknown(key: &str) -> String {
    let names = broker_definitions().iter().map(|definition| definition.name);
    let nearest = names.map(|name| (strsim::levenshtein(key, name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= SUGGESTION_DISTANCE.min(key.len() / 2) => {
            format!("unknown property `{key}`; did you mean `{name}`?")
        }
        _ => format!("unknown property `{key}`; Kafka's broker properties are known by Kafka's names"),
    }
}

/// Refuses what would be dangerous to accept and not do.
fn check_served(key: &str, value: &str) -> Result<(), String> {
    let refuse = |mend: &str| Err(format!("`{key} = {value}` is not served; {mend}"));
    match key {
        "authorizer.class.name" if !value.is_empty() => {
            refuse("there are no ACLs yet, so leave it out and guard the port")
        }
        "controller.quorum.voters" if !value.is_empty() => refuse(
            "start one node without other controllers in controller.quorum.bootstrap.servers, and the others with it there and \
             controller.quorum.auto.join.enable = true",
        ),
        "listener.security.protocol.map" => {
            let insecure =
                |entry: &str| entry.split_once(':').is_some_and(|(_, protocol)| protocol == PLAINTEXT);
            let named = |entry: &&str| entry.split_once(':').is_none_or(|(name, protocol)| name != protocol);
            match value.split(',').map(str::trim).filter(named).find(|entry| !insecure(entry)) {
                Some(_) => refuse("listeners speak PLAINTEXT only"),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn one_directory(value: &str) -> Result<PathBuf, String> {
    let mut directories = value.split(',').map(str::trim).filter(|dir| !dir.is_empty());
    match (directories.next(), directories.next()) {
        (Some(one), None) => Ok(one.into()),
        (None, _) => Err("`log.dirs` is empty; name the directory to keep the logs in".to_owned()),
        (Some(_), Some(_)) => {
            Err(format!("`log.dirs = {value}` names several directories; one is served, so name one"))
        }
    }
}

fn check_advertised(value: &str) -> Result<(), String> {
    match parse_listeners(value)?.into_iter().find(|listen| is_any(&listen.address)) {
        Some(Listen { name, address }) => Err(format!(
            "`{ADVERTISED}` cannot be {address}: nobody can connect to every address; name the one where this node is reached, as {name}://HOST:{}",
            address.port
        )),
        None => Ok(()),
    }
}

/// Whether it stands for every address of the machine.
fn is_any(endpoint: &Endpoint) -> bool {
    matches!(&*endpoint.host, "0.0.0.0" | "::")
}

/// Reads `host:port,...`. An entry that cannot be read is none to leave out: without any, a node would found a cluster of its own.
fn parse_servers(value: &str) -> Result<Vec<Endpoint>, String> {
    let entries = value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let servers = entries.map(|entry| {
        Endpoint::parse(entry).ok_or_else(|| {
            format!("`{SERVERS}` (--join): `{entry}` is not an address; write HOST:PORT, with commas between several")
        })
    });
    servers.collect()
}

/// Reads `NAME://host:port,...`; `host:port` alone is a listener called PLAINTEXT, and an empty host is every address.
fn parse_listeners(value: &str) -> Result<Vec<Listen>, String> {
    let mut listeners: Vec<Listen> = Vec::new();
    for text in value.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let (name, address) = text.split_once("://").unwrap_or((PLAINTEXT, text));
        let address = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
        let endpoint = Endpoint::parse(&address)
            .ok_or_else(|| format!("`{text}` is not an address; write it as NAME://host:port"))?;
        let name = name.to_ascii_uppercase();
        if matches!(name.as_str(), "SSL" | "SASL_PLAINTEXT" | "SASL_SSL") {
            return Err(format!("`{text}`: listeners speak PLAINTEXT only; write PLAINTEXT://{endpoint}"));
        }
        if listeners.iter().any(|known| known.name == name) {
            return Err(format!("`{text}`: there are two listeners of the name {name}; give each its own"));
        }
        if let Some(known) = listeners.iter().find(|known| known.address == endpoint && endpoint.port != 0) {
            return Err(format!(
                "{} and {name} have the same address, {endpoint} (--listen is for clients, --controller for controllers); \
                 give each a port of its own",
                known.name
            ));
        }
        listeners.push(Listen { name, address: endpoint });
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(key: &str, value: &str) -> String {
        NodeConfig::new("/data")
            .set(key, value)
            .map_or_else(|error| error.to_string(), |()| "taken".to_owned())
    }

    #[test]
    fn properties_are_judged_when_set() {
        for (key, value, expected) in [
            ("node.id", "0", "taken"),
            ("num.partitions", "3", "taken"),
            ("log.retention.hours", "1", "taken"),
            ("num.partition", "3", "did you mean `num.partitions`?"),
            ("colour", "red", "unknown property `colour`; Kafka's"),
            ("num.partitions", "many", "must be a number of 32 bits"),
            ("num.partitions", "0", "at least 1"),
            ("log.dirs", "/a,/b", "several directories"),
            ("listeners", "PLAINTEXT://:9092,CONTROLLER://:9093", "taken"),
            ("listeners", "SSL://:9093", "PLAINTEXT only"),
            ("listeners", "localhost", "write it as NAME://host:port"),
            ("listeners", "A://:1,A://:2", "two listeners"),
            ("listeners", "A://h:1,B://h:1", "A and B have the same address, h:1 (--listen"),
            ("listeners", "A://h:0,B://h:0", "taken"),
            (ADVERTISED, "A://0.0.0.0:1", "cannot be 0.0.0.0:1"),
            (ADVERTISED, "A://:1", "cannot be 0.0.0.0:1"),
            (ADVERTISED, "A://h:1", "taken"),
            (SERVERS, "a:1, b:2,[::1]:3", "taken"),
            (SERVERS, "127.0.0.1", "(--join): `127.0.0.1` is not an address; write HOST:PORT, with commas"),
            (SERVERS, "a:1,127.0.0.1:abc", "`127.0.0.1:abc` is not an address"),
            (SERVERS, "a:1;b:2", "`a:1;b:2` is not an address"),
            (SERVERS, "a:1 b:2", "`a:1 b:2` is not an address"),
            ("authorizer.class.name", "x.Y", "no ACLs yet"),
            ("listener.security.protocol.map", "A:PLAINTEXT,SSL:SSL", "taken"),
            ("listener.security.protocol.map", "A:SSL", "PLAINTEXT only"),
        ] {
            let found = refused(key, value);
            assert!(found.contains(expected), "{key}={value}: {found}");
        }
    }

    #[test]
    fn a_file_tells_all_that_is_wrong_with_its_lines() {
        let mut config = NodeConfig::new("/data");
        let error = config
            .apply_properties("s.properties", "node.id=7\nnum.partition=1\n\nlog.dirs=,\n")
            .unwrap_err();
        let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("s.properties:2: unknown property"));
        assert!(lines[1].starts_with("s.properties:4: "));
        assert_eq!(config.broker_config(&[]).node_id.0, 7);
    }

    #[test]
    fn a_node_that_is_to_join_has_to_be_told_where() {
        let check = |servers: &str| {
            let mut config = NodeConfig::new("/data");
            config.set("listeners", "PLAINTEXT://h:1,CONTROLLER://h:2").unwrap();
            config.set("controller.listener.names", "CONTROLLER").unwrap();
            config.set(AUTO_JOIN, "true").unwrap();
            config.set(SERVERS, servers).unwrap();
            config.check().map_or_else(|error| error.to_string(), |()| "taken".to_owned())
        };
        assert_eq!(check("a:1"), "taken");
        assert!(check(",").contains("(--join) names no server"), "{}", check(","));
    }

    #[test]
    fn a_cluster_is_told_an_address_that_it_can_reach() {
        let check = |names: &str, advertised: Option<&str>| {
            let mut config = NodeConfig::new("/data");
            config.set("listeners", "PLAINTEXT://h:1,CONTROLLER://0.0.0.0:2").unwrap();
            config.set("controller.listener.names", names).unwrap();
            advertised.into_iter().for_each(|text| config.set(ADVERTISED, text).unwrap());
            config.check().map_or_else(|error| error.to_string(), |()| "taken".to_owned())
        };
        assert!(
            check("CONTROLLER", None).contains("CONTROLLER on 0.0.0.0:2"),
            "{}",
            check("CONTROLLER", None)
        );
        assert_eq!(check("CONTROLLER", Some("PLAINTEXT://h:1,CONTROLLER://h:2")), "taken");
        assert_eq!(check("NONE", None), "taken", "a node that is alone says localhost");
    }

    #[test]
    fn what_is_advertised_is_what_is_bound_unless_said_otherwise() {
        let bound = parse_listeners("PLAINTEXT://0.0.0.0:4711").unwrap();
        let check = |advertised: Option<&str>, expected: &str| {
            let mut config = NodeConfig::new("/data");
            if let Some(text) = advertised {
                config.set("advertised.listeners", text).unwrap();
            }
            let listeners = config.broker_config(&bound).listeners;
            assert_eq!(listeners[0].endpoint.to_string(), expected);
        };
        check(None, "localhost:4711");
        check(Some("PLAINTEXT://example.org:9092"), "example.org:9092");
        check(Some("PLAINTEXT://example.org:0"), "example.org:4711");
    }

    #[test]
    fn controllers_listeners_are_not_for_clients() {
        let mut config = NodeConfig::new("/data");
        config.set("listeners", "PLAINTEXT://:9092,CONTROLLER://:9093").unwrap();
        config.set("controller.listener.names", "CONTROLLER").unwrap();
        let names: Vec<String> = config.client_listeners().into_iter().map(|listen| listen.name).collect();
        assert_eq!(names, ["PLAINTEXT"]);
    }
}
