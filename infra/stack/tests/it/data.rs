//! Public data as JSON.

use serde_json::json;
use zae_limiter_infra::{ConnectOptions, StackErrorKind};

#[test]
fn what_a_caller_chooses_or_tells_apart_comes_back_from_json_as_it_was() {
    let emulator = ConnectOptions::default()
        .region("us-east-1")
        .endpoint_url("http://localhost:4566");
    for options in [ConnectOptions::default(), emulator] {
        let json = serde_json::to_value(&options).unwrap();
        let back: ConnectOptions = serde_json::from_value(json).unwrap();
        assert_eq!(back, options);
    }
    let wrong = json!({ "endpoint": "http://localhost:4566" });
    let error = serde_json::from_value::<ConnectOptions>(wrong).unwrap_err();
    assert!(error.to_string().contains("unknown field"), "{error}");

    for kind in [StackErrorKind::Invalid, StackErrorKind::AccessDenied] {
        let json = serde_json::to_value(kind).unwrap();
        let back: StackErrorKind = serde_json::from_value(json).unwrap();
        assert_eq!(back, kind);
    }
    assert_eq!(json!(StackErrorKind::AccessDenied), "access_denied");
}
