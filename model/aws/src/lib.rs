//! model-aws
