//! The one-way edges between the crates of the workspace, and the few outside crates that only one room may know.
//!
//! `docs/ARCHITECTURE.md` tells why. Development dependencies are not looked at: a test may compare a crate with anything.
//! An edge that is missing from the table is an error, and so is a crate that the table does not know.

use cargo_metadata::{DependencyKind, MetadataCommand};
use std::collections::BTreeSet;

/// Each crate and the crates of the workspace that it may depend on.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("erasure", &["types"]),
    ("placement", &["types"]),
    ("rdma", &["types"]),
    ("gpu", &["types", "erasure"]),
    ("metadata", &["types", "placement", "rdma"]),
    ("node", &["types", "erasure", "placement", "rdma", "metadata"]),
    ("gateway", &["types", "erasure", "placement", "rdma", "metadata"]),
    ("client", &["types", "rdma"]),
    ("python", &["types", "rdma", "client"]),
    ("cli", &["types", "erasure", "gpu", "placement", "rdma", "metadata", "node", "gateway", "client"]),
    ("chaos", &["types", "erasure", "placement", "rdma", "metadata", "node", "gateway", "client", "cli"]),
];

/// Outside crates, and the only crates of the workspace that may depend on them.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("openraft", &["metadata"]),
    ("sled", &["metadata"]),
    ("s3s", &["gateway"]),
    ("cudarc", &["gpu"]),
    ("reed-solomon-erasure", &["erasure"]),
    ("anyhow", &["cli", "chaos"]),
    ("hyper", &["gateway", "client", "cli"]),
    ("tokio", &["rdma", "metadata", "node", "gateway", "client", "python", "cli", "chaos"]),
    ("pyo3", &["python"]),
];

/// `from` depends on `to`; both without the prefix `tenfour-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    to: String,
}

/// Every edge that the tables do not allow, as a sentence.
fn violations(edges: &[Edge]) -> Vec<String> {
    let known = |name: &str| MAY_KNOW.iter().any(|(known, _)| *known == name);
    let mut found = Vec::new();
    for Edge { from, to } in edges {
        let inside = MAY_KNOW.iter().find(|(name, _)| name == from).map(|(_, allowed)| *allowed);
        let outside = ONLY_IN.iter().find(|(name, _)| name == to).map(|(_, allowed)| *allowed);
        match (inside, outside) {
            (None, _) => found.push(format!("{from} is not in the table of crates")),
            (Some(allowed), _) if known(to) && !allowed.contains(&to.as_str()) => {
                found.push(format!("{from} must not know {to}"));
            }
            (_, Some(rooms)) if !rooms.contains(&from.as_str()) => {
                found.push(format!("{from} must not use {to}: only {} may", rooms.join(", ")));
            }
            _ => {}
        }
    }
    found
}

/// The normal and build dependencies that the workspace's manifests declare, optional ones too.
fn declared_edges() -> Vec<Edge> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let metadata = MetadataCommand::new()
        .manifest_path(manifest)
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata reads the workspace");
    let room = |name: &str| name.strip_prefix("tenfour-").unwrap_or(name).to_owned();
    let mut edges = BTreeSet::new();
    for package in &metadata.packages {
        for dependency in &package.dependencies {
            if dependency.kind != DependencyKind::Development {
                edges.insert(Edge { from: room(&package.name), to: room(&dependency.name) });
            }
        }
    }
    edges.into_iter().collect()
}

#[test]
fn the_workspace_has_only_the_edges_of_the_table() {
    let edges = declared_edges();
    assert!(edges.iter().any(|edge| edge.from == "cli" && edge.to == "gateway"), "the edges were read");
    let found = violations(&edges);
    assert!(found.is_empty(), "edges that docs/ARCHITECTURE.md rules out:\n  {}", found.join("\n  "));
}

#[test]
fn a_forbidden_edge_is_found() {
    let edge = |from: &str, to: &str| Edge { from: from.to_owned(), to: to.to_owned() };
    for (from, to, sentence) in [
        ("erasure", "rdma", "erasure must not know rdma"),
        ("types", "erasure", "types must not know erasure"),
        ("metadata", "node", "metadata must not know node"),
        ("gateway", "node", "gateway must not know node"),
        ("node", "gateway", "node must not know gateway"),
        ("gateway", "gpu", "gateway must not know gpu"),
        ("gpu", "node", "gpu must not know node"),
        ("client", "gateway", "client must not know gateway"),
        ("cli", "chaos", "cli must not know chaos"),
        ("python", "gateway", "python must not know gateway"),
        ("cli", "pyo3", "cli must not use pyo3: only python may"),
        ("node", "s3s", "node must not use s3s: only gateway may"),
        ("attic", "types", "attic is not in the table of crates"),
    ] {
        assert_eq!(violations(&[edge("node", "erasure"), edge(from, to)]), [sentence]);
    }
    assert!(violations(&[edge("cli", "gpu"), edge("gpu", "erasure"), edge("gateway", "serde")]).is_empty());
}

#[test]
fn the_table_has_no_way_back() {
    for (position, (name, allowed)) in MAY_KNOW.iter().enumerate() {
        for known in *allowed {
            let above = MAY_KNOW.iter().take(position).any(|(earlier, _)| earlier == known);
            assert!(above, "{name} may know {known}, which does not stand above it");
        }
    }
}
