//! model-node
