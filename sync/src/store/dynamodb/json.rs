//! JSON in items, as maps and lists of DynamoDB, the way v0.2.0 stores details of events.

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Number, Value};

use super::codec::number;

pub(super) fn encode_json(value: &Value) -> AttributeValue {
    match value {
        Value::Null => AttributeValue::Null(true),
        Value::Bool(flag) => AttributeValue::Bool(*flag),
        Value::Number(n) => number(n),
        Value::String(text) => AttributeValue::S(text.clone()),
        Value::Array(list) => AttributeValue::L(list.iter().map(encode_json).collect()),
        Value::Object(fields) => {
            let fields = fields.iter();
            AttributeValue::M(fields.map(|(k, v)| (k.clone(), encode_json(v))).collect())
        }
    }
}

/// What others stored that JSON has no word for (sets, bytes) becomes a list.
pub(super) fn decode_json(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::Bool(flag) => Value::Bool(*flag),
        AttributeValue::S(text) => Value::String(text.clone()),
        AttributeValue::N(digits) => decode_number(digits),
        AttributeValue::L(list) => list.iter().map(decode_json).collect(),
        AttributeValue::M(fields) => {
            let fields = fields.iter();
            fields.map(|(k, v)| (k.clone(), decode_json(v))).collect()
        }
        AttributeValue::Ss(set) => set.iter().cloned().collect(),
        AttributeValue::Ns(set) => set.iter().map(|digits| decode_number(digits)).collect(),
        AttributeValue::B(bytes) => bytes.as_ref().iter().copied().collect(),
        _ => Value::Null,
    }
}

/// An integer where it is one, else the nearest fraction; a number too long for either as text.
fn decode_number(digits: &str) -> Value {
    let number = digits.parse().ok().map(|n: i64| n.into());
    let number = number.or_else(|| digits.parse().ok().map(|n: u64| n.into()));
    let number = number.or_else(|| Number::from_f64(digits.parse().ok()?));
    number.map_or_else(|| Value::String(digits.to_owned()), Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn details_come_back_as_they_were_stored() {
        let details = json!({
            "text": "Größe", "empty": "", "none": null, "flag": true,
            "numbers": [0, -7, u64::MAX, i64::MIN, 1.5, -0.25],
            "limits": [{ "name": "rpm", "capacity": 100 }], "nothing": {}, "list": [],
        });
        assert_eq!(decode_json(&encode_json(&details)), details);
    }

    #[test]
    fn what_others_stored_is_readable() {
        let set = AttributeValue::Ss(vec!["a".into(), "b".into()]);
        assert_eq!(decode_json(&set), json!(["a", "b"]));
        let large = AttributeValue::N("1E+400".into());
        assert_eq!(decode_json(&large), json!("1E+400"));
    }
}
