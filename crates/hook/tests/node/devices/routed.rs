//! Sandboxes that reach each other through VRFs.

use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::{Value, json};
use tokio::{net::TcpSocket, runtime};

use super::machine::{on_machine, wait_for_carrier};
use crate::support::{Sandbox, inject::Order, output};

/// A connection whose end here is bound to a VRF.
fn connect(sandbox: &Sandbox, vrf: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let connect = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind_device(Some(vrf.as_bytes()))?;
        socket.connect(to).await?.into_std()
    };
    sandbox.run(|| runtime.block_on(connect))
}

/// Case 20 of DRANET's end-to-end tests: case 19 with VRFs.
#[test]
#[ignore = "it needs the guest of hack/vm-test"]
fn case_20_two_pods_reach_each_other_through_the_vrf_of_a_router() {
    on_machine(|host| {
        for (end, other) in [("left0", "left1"), ("right0", "right1")] {
            host.ip(&format!("link add {end} type veth peer name {other}\nlink set {end} up\nlink set {other} up"));
            wait_for_carrier(end);
            wait_for_carrier(other);
        }
        let before = host.settled();
        let [left, right, router] = ["left", "right", "router"].map(|pod| host.sandbox(pod));
        let end = |sandbox, device: &str, own: &str, via: &str, to: &str| {
            let asked =
                json!({"name": "net1", "addresses": [own], "vrf": "1000 blue", "routes": [{"to": to, "via": via}]});
            Order::new(host, sandbox, &json!([[device, asked]]))
        };
        let port = |device: &str, own: &str| -> Value { json!([device, {"addresses": [own], "vrf": "1000 red"}]) };
        let orders = [
            end(&left, "left0", "10.78.1.2/24", "10.78.1.1", "10.78.2.0/24"),
            end(&right, "right0", "10.78.2.2/24", "10.78.2.1", "10.78.1.0/24"),
            Order::new(host, &router, &json!([port("left1", "10.78.1.1/24"), port("right1", "10.78.2.1/24")])),
        ];
        orders.iter().for_each(|order| drop(order.arrives()));
        router.write("/proc/sys/net/ipv4/ip_forward", "1");
        let ping = |device| left.run(|| output("ping", &["-c", "1", "-w", "10", "-I", device, "10.78.2.2"]));
        assert!(ping("blue").contains(" 0% packet loss"), "{}", ping("blue"));
        // not by the main table
        assert!(left.show("route show").is_empty(), "{}", left.show("route show"));
        // a program that knows nothing of the VRF serves both
        let to = SocketAddr::from(([10, 78, 2, 2], 7777));
        let _listener = right.run(|| TcpListener::bind("0.0.0.0:7777")).unwrap();
        connect(&left, "blue", to).unwrap();
        right.write("/proc/sys/net/ipv4/tcp_l3mdev_accept", "0");
        connect(&left, "blue", to).unwrap_err();
        orders.iter().for_each(Order::comes_home);
        host.assert_same(&before);
    });
}
