//! How long it takes until all have everything, and what makes it longer.

use std::time::Duration;

use bittorrent_engine::Config;

use crate::node::Habits;
use crate::torrent::{BLOCK, Torrent};
use crate::world::World;

const BLOCKS: u64 = 600;
const RATE: u64 = 1_000_000;

/// How mirrors come by the content.
#[derive(Clone, Copy)]
struct Swarm {
    mirrors: usize,
    in_order: bool,
    /// One mirror in so many lies, all the time.
    liar_in: Option<usize>,
}

/// One producer, everybody as fast as it: when the first half and when all mirrors that do not lie
/// have everything, as multiples of the time in which the producer sends it once.
fn spread(swarm: Swarm) -> (f64, f64) {
    let torrent = Torrent::new(4, &[BLOCKS * BLOCK]);
    let mut world = World::new(1);
    let honest = Habits {
        upload_rate: RATE,
        ..Habits::default()
    };
    let liar = Habits {
        lies: |block| block.in_piece() == 1,
        ..honest.clone()
    };
    world.strict = swarm.liar_in.is_none();
    world.add_seed(&torrent, honest.clone());
    let config = Config {
        // Each helps a few at a time, as on a line of its own.
        unchoke_slots: 4,
        optimistic_slots: 1,
        ..Config::default()
    };
    let mut leeches = Vec::new();
    for n in 0..swarm.mirrors {
        let lies = swarm.liar_in.is_some_and(|every| n % every == every - 1);
        let habits = if lies { liar.clone() } else { honest.clone() };
        let number = world.add(&torrent, habits, config.clone());
        world.give_content(number, true, |_| false);
        if swarm.in_order {
            let node = &mut world.nodes[number];
            node.engine.take_in_order(node.torrent);
        }
        if !lies {
            leeches.push(number);
        }
    }
    world.introduce_all();
    world.run_until_complete(&leeches, Duration::from_secs(3600));
    let once = (BLOCKS * BLOCK) as f64 / RATE as f64;
    let mut times: Vec<f64> = leeches
        .iter()
        .map(|n| (world.nodes[*n].completed.unwrap() - world.start).as_secs_f64() / once)
        .collect();
    times.sort_by(f64::total_cmp);
    let (half, all) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{:3} mirrors, in order {:5}, liars {:?}: half {half:.2}, all {all:.2}",
        swarm.mirrors, swarm.in_order, swarm.liar_in
    );
    (half, all)
}

const PLAIN: Swarm = Swarm {
    mirrors: 1,
    in_order: false,
    liar_in: None,
};

#[test]
fn many_mirrors_take_little_longer_than_few() {
    let times = [1, 4, 16].map(|mirrors| spread(Swarm { mirrors, ..PLAIN }).1);
    // Without help among them 16 would take 16 times as long as one.
    assert!(times[2] < 4.0 * times[0], "{times:?}");
    // Four times as many add about a constant, not a factor.
    assert!(times[2] - times[1] < 1.8, "{times:?}");
    assert!(times[1] - times[0] < 1.8, "{times:?}");
}

#[test]
fn everybody_in_the_same_order_is_slower_than_rarest_first() {
    let swarm = Swarm {
        mirrors: 12,
        ..PLAIN
    };
    let (rarest, in_order) = (
        spread(swarm).1,
        spread(Swarm {
            in_order: true,
            ..swarm
        })
        .1,
    );
    assert!(in_order > 1.1 * rarest, "{in_order} and {rarest}");
}

#[test]
fn one_liar_in_ten_changes_little() {
    let swarm = Swarm {
        mirrors: 10,
        ..PLAIN
    };
    let (honest, lied_to) = (
        spread(swarm).1,
        spread(Swarm {
            liar_in: Some(10),
            ..swarm
        })
        .1,
    );
    assert!(lied_to < 1.5 * honest, "{lied_to} and {honest}");
}
