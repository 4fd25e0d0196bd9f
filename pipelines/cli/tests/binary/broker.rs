//! `millstream broker` where it is told what cannot be meant: it says so, and how to mend it, and ends.

use millstream_env::testing::private_port;

use crate::support::{Folder, PATIENCE, Process};

/// A broker on the directory `data`, with more arguments.
fn broker(folder: &Folder, data: &str, args: &[&str]) -> Process {
    folder.spawn(&[&["broker", "--data", data, "--listen", "127.0.0.1:0"], args].concat())
}

/// Starts one that comes up and is registered: no topic is made before.
fn started(folder: &Folder, data: &str, args: &[&str]) -> Process {
    let mut process = broker(folder, data, args);
    let first = process.first_line();
    let address = first.strip_prefix("listening on ").and_then(|rest| rest.split_whitespace().next());
    let address = address.unwrap_or_else(|| panic!("the broker said: {first}"));
    let _ = folder.run_with(&["topics", "create", "t", "--bootstrap", address], ""); // it may be there already
    process
}

fn stop(mut process: Process) {
    process.interrupt();
    process.succeed(PATIENCE);
}

fn address() -> String {
    format!("127.0.0.1:{}", private_port())
}

#[test]
fn a_join_that_cannot_be_read_founds_no_cluster() {
    let folder = Folder::new();
    let controller = address();
    for join in ["127.0.0.1", "127.0.0.1:abc", "a:1;b:2", "a:1 b:2"] {
        for args in [&["--join", join][..], &["--controller", &controller, "--join", join]] {
            let said = broker(&folder, "data", args).fail();
            assert!(said.contains(&format!("`{join}` is not an address; write HOST:PORT")), "{said}");
        }
    }
    let said = broker(&folder, "data", &["--controller", &controller, "--join", ","]).fail();
    assert!(said.contains("(--join) names no server"), "{said}");
    assert!(!folder.path().join("data").exists());
}

#[test]
fn a_directory_with_logs_is_not_given_new_ids() {
    let folder = Folder::new();
    let controller = address();
    for (data, args) in [("alone", &[][..]), ("founder", &["--controller", &controller])] {
        stop(started(&folder, data, args));
        let file = folder.path().join(data).join("meta.properties");
        let whole = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let said = broker(&folder, data, args).fail();
        let directory = whole.lines().find(|line| line.starts_with("directory.id=")).unwrap();
        let lines = format!("version=1, node.id=0, cluster.id=CLUSTER, {directory}.");
        assert!(said.contains("meta.properties is missing") && said.contains(&lines), "{said}");
        assert!(!file.exists());
        std::fs::write(&file, "").unwrap();
        let said = broker(&folder, data, args).fail();
        assert!(said.contains("`version` is missing; restore the file from a backup"), "{said}");
        std::fs::write(&file, whole).unwrap();
        stop(started(&folder, data, args));
    }
}

#[test]
fn a_directory_of_one_cluster_does_not_join_another() {
    let folder = Folder::new();
    let (ours, theirs) = (address(), address());
    stop(started(&folder, "ours", &["--controller", &ours]));
    let _other = started(&folder, "theirs", &["--controller", &theirs, "--node-id", "1"]);
    for args in [&["--join", &theirs][..], &["--controller", &ours, "--join", &theirs]] {
        let said = broker(&folder, "ours", args).fail();
        assert!(said.contains("the directory ours is of cluster "), "{said}");
        assert!(said.contains(&format!(", and {theirs} is of cluster ")), "{said}");
    }
}

#[test]
fn who_waits_for_a_controller_says_so() {
    let folder = Folder::new();
    let nobody = address();
    let said = broker(&folder, "data", &["--join", &nobody]).first_note();
    assert!(said.contains(&format!("waiting for a controller at {nobody}")), "{said}");
}

#[test]
fn one_address_is_not_for_clients_and_controllers() {
    let folder = Folder::new();
    let one = address();
    let said = folder.fail(&["broker", "--data", "data", "--listen", &one, "--controller", &one]);
    assert!(said.contains("PLAINTEXT and CONTROLLER have the same address"), "{said}");
}

#[test]
fn a_checkpoint_that_cannot_be_read_says_how_to_mend_it() {
    let folder = Folder::new();
    stop(started(&folder, "data", &[]));
    folder.write("data/recovery-point-offset-checkpoint", "garbage\n");
    let said = broker(&folder, "data", &[]).fail();
    assert!(said.contains("restore the file from a backup, or delete it"), "{said}");
    std::fs::remove_file(folder.path().join("data/recovery-point-offset-checkpoint")).unwrap();
    stop(started(&folder, "data", &[]));
}
