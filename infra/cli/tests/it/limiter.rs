//! What is in a limiter: entities, limits, events, versions.

use serde_json::json;

use crate::command::{Stack, endpoint};

#[test]
fn entities_limits_and_events() {
    let stack = Stack::new(&endpoint(), "data");
    stack.run(&["entity", "get", "org"]).code(4);
    stack.run(&["deploy", "--no-aggregator"]).code(0);

    let create = [
        "entity",
        "create",
        "org",
        "--display-name",
        "Org",
        "--metadata",
        "plan=pro",
        "--metadata",
        "tier=1",
        "--as",
        "ops@example.com",
    ];
    let org = stack.json(&create);
    assert_eq!(
        (&org["name"], &org["metadata"]["plan"]),
        (&json!("Org"), &json!("pro"))
    );
    let twice = stack.run(&create).code(1);
    assert!(twice.err.contains("exists already"), "{twice:?}");
    stack
        .run(&["entity", "create", "user", "--parent", "nobody"])
        .code(4);
    stack
        .run(&["entity", "create", "user", "--parent", "org", "--cascade"])
        .code(0);
    let itself = ["entity", "create", "me", "--parent", "me"];
    let itself = stack.run(&itself).code(2);
    assert!(itself.err.contains("invalid --parent"), "{itself:?}");
    let children = stack.json(&["entity", "children", "org"]);
    assert_eq!(
        (&children[0]["id"], &children[0]["cascade"]),
        (&json!("user"), &json!(true))
    );
    assert!(
        stack
            .run(&["entity", "children", "org"])
            .code(0)
            .out
            .contains("user")
    );
    stack.json(&["entity", "set-parent", "user", "--none", "--as", "ops"]);
    assert_eq!(
        stack.json(&["entity", "get", "user"])["parent_id"],
        json!(null)
    );
    stack.run(&["entity", "set-parent", "user", "org"]).code(0);
    stack.json(&[
        "entity",
        "update",
        "user",
        "--display-name",
        "U",
        "--cascade",
        "false",
        "--metadata",
        "a=b",
        "--as",
        "ops",
    ]);
    let user = stack.json(&["entity", "get", "user"]);
    assert_eq!(
        (&user["name"], &user["cascade"]),
        (&json!("U"), &json!(false))
    );
    assert!(
        stack
            .run(&["entity", "get", "user"])
            .code(0)
            .out
            .contains("org")
    );

    let set = [
        "limits",
        "set",
        "--entity",
        "user",
        "--resource",
        "gpt-4",
        "--limit",
        "rpm=100/minute,burst=150",
        "--limit",
        "tpm=9/90s,refill=3",
        "--as",
        "ops",
    ];
    assert_eq!(stack.json(&set)[0]["burst"], json!(150));
    let twice = ["limits", "set", "-l", "rpm=1/day", "-l", "rpm=2/day"];
    let twice = stack.run(&twice).code(2);
    assert!(twice.err.contains("invalid --limit \"rpm\""), "{twice:?}");
    stack.run(&["limits", "set", "-l", "rpm=5/second"]).code(0);
    let limits = stack.json(&["limits", "get", "-e", "user", "-r", "gpt-4"]);
    assert_eq!(limits[1]["refill_amount"], json!(3), "{limits}");
    assert!(
        stack
            .run(&["limits", "get"])
            .code(0)
            .out
            .contains("5 per 1 s")
    );
    let delete = [
        "limits", "delete", "-e", "user", "-r", "gpt-4", "-y", "--as", "ops",
    ];
    assert_eq!(stack.json(&delete)["found"], true);
    assert_eq!(stack.json(&delete)["found"], false);
    assert!(
        stack
            .run(&["limits", "get", "-e", "user"])
            .code(0)
            .out
            .contains("none")
    );

    let first = stack.json(&["audit", "user", "--max", "1"]);
    assert_eq!(first["items"][0]["action"], "limits_deleted");
    assert_eq!(first["items"][0]["principal"], "ops");
    let next = first["next"].as_str().unwrap();
    let rest = stack.json(&["audit", "user", "--after", next]);
    assert_eq!(rest["items"][0]["action"], "limits_set");
    let other = stack.run(&["audit", "org", "--after", next]).code(2);
    assert!(other.err.contains("invalid --after"), "{other:?}");
    assert_eq!(
        stack.json(&["audit", "--system"])["items"][0]["action"],
        "limits_set"
    );
    assert_eq!(
        stack.json(&["audit", "--resource", "gpt-4"])["items"],
        json!([])
    );
    assert!(
        stack
            .run(&["audit", "org"])
            .code(0)
            .out
            .contains("ops@example.com")
    );

    let nothing = stack.run(&[
        "watch",
        "user",
        "gpt-4",
        "--count",
        "2",
        "--interval",
        "100",
    ]);
    assert_eq!(nothing.code(0).out, "no buckets\nno buckets\n");
    let nothing = stack.json(&["watch", "user", "gpt-4", "--count", "1"]);
    assert_eq!(nothing, json!([]));
    let delete = ["entity", "delete", "user", "--yes", "--as", "ops"];
    assert_eq!(stack.json(&delete)["done"], "deleted");
    stack.run(&["entity", "get", "user"]).code(4);
    stack.console.covers("audit");
    stack.console.covers("entity");
    stack.console.covers("limits");
    stack.console.covers("watch");
}

#[test]
fn versions() {
    let stack = Stack::new(&endpoint(), "version");
    stack.run(&["upgrade"]).code(4);
    stack.run(&["deploy", "--no-aggregator"]).code(0);
    let versions = stack.json(&["version"]);
    assert_eq!(versions["table"]["schema_version"], "1.0.0");
    assert_eq!(
        versions["table"]["updated_by"],
        format!("cli:{}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(versions["compatibility"], "compatible");
    assert!(
        stack
            .run(&["version"])
            .code(0)
            .out
            .contains("Client's schema")
    );
    assert_eq!(stack.run(&["check"]).code(0).out, "compatible\n");
    let same = stack.json(&["upgrade"]);
    assert_eq!(same["operation"], "nothing");
    assert_eq!(
        stack.json(&["upgrade", "--lambda-only", "--force"])["operation"],
        "nothing"
    );

    // A table that some later version has made.
    let later = "
client('dynamodb').update_item(TableName=name, Key={'PK': {'S': 'SYSTEM#'}, 'SK': {'S': '#VERSION'}},
    UpdateExpression='SET #d.schema_version = :v', ExpressionAttributeNames={'#d': 'data'},
    ExpressionAttributeValues={':v': {'S': '2.0.0'}})
print('null')";
    stack.ask(later);
    let newer = stack.run(&["check"]).code(1);
    assert!(newer.err.contains("install a newer one"), "{newer:?}");
    stack.run(&["version"]).code(1);
    let refused = stack.run(&["upgrade"]).code(1);
    assert!(refused.err.contains("--force"), "{refused:?}");
    stack.run(&["entity", "get", "x"]).code(1);
    stack.run(&["upgrade", "--force"]).code(0);
    assert_eq!(stack.json(&["check"])["compatibility"], "compatible");
    stack.console.covers("check");
    stack.console.covers("version");
}
