//! The smallest world: a node starts on an empty disk, and again after a power loss.

use std::time::Duration;

use millstream_node::NodeConfig;
use millstream_sim::executor::{Owner, Sim};
use millstream_sim::machine::Machine;

#[test]
fn a_node_starts_on_an_empty_disk_and_after_power_losses() {
    for seed in 0..20 {
        let sim = Sim::new(seed, false);
        let mut config = NodeConfig::new("/data");
        config.set("listeners", "PLAINTEXT://node:9092").unwrap();
        let machine = Machine::new(&sim, config);
        let env = sim.env_of(Owner::WORLD);
        let world = sim.clone();
        let refused = sim.run(Duration::from_secs(600), async move {
            for _ in 0..5 {
                machine.boot();
                env.sleep(Duration::from_millis(world.below(30))).await;
                machine.stop(true);
            }
            machine.boot();
            while !machine.is_up() && machine.refused().is_none() {
                env.sleep(Duration::from_millis(10)).await;
            }
            machine.refused()
        });
        assert_eq!(refused, Ok(None), "seed {seed}");
        sim.shut_down();
    }
}
