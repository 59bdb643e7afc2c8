//! Where the instances' metadata services listen: on two loopback ports for each node, the same ones at every start.
//!
//! The nodes, their pods and drivers that somebody started by hand know the address, and live on when `up` dies.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context;
use emulator_aws::imds::Listeners;
use emulator_common::places::Places;
use emulator_node::config::MetadataEndpoints;
use model_aws::world::Node;
use serde::{Deserialize, Serialize};

/// The ports of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Addresses {
    node: SocketAddr,
    pods: SocketAddr,
}

/// By instance id.
type Known = BTreeMap<String, Addresses>;

fn file(places: &Places) -> std::path::PathBuf {
    places.metadata().join("addresses.json")
}

fn known(places: &Places) -> Known {
    std::fs::read(file(places)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// The endpoints of a node's metadata service, as the last `up` bound them.
pub fn endpoints(places: &Places, instance_id: &str) -> Option<MetadataEndpoints> {
    known(places).get(instance_id).map(Addresses::endpoints)
}

impl Addresses {
    fn endpoints(&self) -> MetadataEndpoints {
        MetadataEndpoints { node: format!("http://{}", self.node), pods: format!("http://{}", self.pods) }
    }
}

/// Binds the listeners of all nodes: on the ports of the last time, or others where somebody has taken those.
pub fn bind(places: &Places, nodes: &[Node]) -> anyhow::Result<Vec<Listeners>> {
    let last = known(places);
    let (mut listeners, mut now) = (Vec::new(), Known::new());
    for node in nodes {
        let last = last.get(&node.instance_id);
        let (node_listener, pods) = (listen(last.map(|last| last.node))?, listen(last.map(|last| last.pods))?);
        let addresses = Addresses { node: node_listener.local_addr()?, pods: pods.local_addr()? };
        if last.is_some_and(|last| *last != addresses) {
            tracing::warn!(
                node = node.name,
                address = %addresses.node,
                "a port of the node's metadata service was taken by another program; it has a new one, and the node starts again"
            );
        }
        now.insert(node.instance_id.clone(), addresses);
        listeners.push(Listeners { instance_id: node.instance_id.clone(), node: node_listener, pods });
    }
    if now != last {
        let file = file(places);
        std::fs::create_dir_all(places.metadata()).with_context(|| format!("making {}", places.metadata().display()))?;
        let new = file.with_extension("json.new");
        std::fs::write(&new, serde_json::to_vec_pretty(&now)?).with_context(|| format!("writing {}", new.display()))?;
        std::fs::rename(&new, &file).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(listeners)
}

fn listen(last: Option<SocketAddr>) -> anyhow::Result<TcpListener> {
    if let Some(Ok(listener)) = last.map(TcpListener::bind) {
        return Ok(listener);
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("binding a port for a node's metadata service")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_node_stays() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path());
        let nodes = model_aws::world::World::default().nodes();
        let id = nodes[0].instance_id.as_str();
        assert!(endpoints(&places, id).is_none());
        drop(bind(&places, &nodes).unwrap());
        let first = endpoints(&places, id).unwrap();
        assert_ne!(first.node, first.pods);
        drop(bind(&places, &nodes).unwrap());
        assert_eq!(endpoints(&places, id), Some(first.clone()));
        // Somebody else has the port: another one, and the file says so.
        let held = TcpListener::bind(first.node.trim_start_matches("http://")).unwrap();
        let bound = bind(&places, &nodes).unwrap();
        let second = endpoints(&places, id).unwrap();
        assert!(second.node != first.node && second.pods == first.pods);
        assert_eq!(second.node, format!("http://{}", bound[0].node.local_addr().unwrap()));
        drop(held);
    }
}
