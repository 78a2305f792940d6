//! The gateway of the default route.

use std::io;
use std::net::Ipv4Addr;

/// Returns the gateway of the IPv4 default route with the lowest metric; `None` if there is no such route.
pub(crate) fn default_router() -> io::Result<Option<Ipv4Addr>> {
    let routes = std::fs::read_to_string("/proc/self/net/route")?;
    Ok(router_in(&routes))
}

/// Finds that gateway in Linux' routing table. The columns are interface, destination, gateway, flags,
/// two counters, metric and mask. Addresses are hexadecimal numbers in the processor's byte order.
fn router_in(routes: &str) -> Option<Ipv4Addr> {
    const UP_AND_GATEWAY: u32 = 0x3;
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let usable = hex(3)? & UP_AND_GATEWAY == UP_AND_GATEWAY;
        let metric: u32 = fields.get(6)?.parse().ok()?;
        (usable && hex(1)? == 0 && hex(7)? == 0)
            .then_some((metric, Ipv4Addr::from(hex(2)?.to_ne_bytes())))
    };
    let found = routes.lines().skip(1).filter_map(route);
    found.min_by_key(|(metric, _)| *metric).map(|found| found.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_default_route_with_the_lowest_metric_names_the_router() {
        let head =
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        for (routes, expected) in [
            ("", None),
            (
                "eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
                None,
            ),
            (
                "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
                Some([192, 168, 1, 1]),
            ),
            (
                "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                 eth0\t00000000\t0102000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                 down\t00000000\t0103000A\t0002\t0\t0\t1\t00000000\t0\t0\t0\n\
                 half\t00000000\t0104000A\t0003\t0\t0\t1\t00000080\t0\t0\t0\n\
                 short\t00000000\t01",
                Some([10, 0, 2, 1]),
            ),
            ("eth0\tnonsense\n\u{0}\n", None),
        ] {
            let found = router_in(&format!("{head}{routes}"));
            assert_eq!(found, expected.map(Ipv4Addr::from), "{routes}");
        }
    }
}
