//! Types and service generated from `proto/swd/v1/swd.proto`, which documents them.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

tonic::include_proto!("swd.v1");
