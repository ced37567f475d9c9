//! The protobuf messages of `proto/record.proto`.

include!(concat!(env!("OUT_DIR"), "/epochlog.record.rs"));
