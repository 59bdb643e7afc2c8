//! Files of records in all the forms in which they are delivered.

use std::io::Read as _;

use serde_json::Value;

use super::{ImportError, Source};

/// A record, and where it was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    /// `trail.json record 3`.
    pub from: String,
    pub form: Form,
    pub json: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    CloudTrail,
    Audit,
    Event,
    /// EventBridge's own notices of EBS, and others like them.
    Notice,
}

/// The most that a compressed file may become: a bomb is no record.
const MOST: u64 = 1 << 30;

/// Reads a file: one JSON document, or one after the other (JSON lines among them).
pub(super) fn read(source: &Source<'_>, records: &mut Vec<Record>) -> Result<(), ImportError> {
    let file = |message: String| ImportError::File { file: source.name.into(), message };
    let mut unpacked = Vec::new();
    let bytes = if source.bytes.starts_with(&[0x1f, 0x8b]) {
        let reader = flate2::read::MultiGzDecoder::new(source.bytes);
        let read = reader.take(MOST).read_to_end(&mut unpacked).map_err(|error| file(format!("is no whole gzip file: {error}")))?;
        if read as u64 == MOST {
            return Err(file("is more than a gigabyte unpacked; give it in parts".into()));
        }
        &unpacked
    } else {
        source.bytes
    };
    let begin = records.len();
    let mut reader = Reader { name: source.name, begin, records };
    let mut documents = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    let mut number = 0;
    loop {
        number += 1;
        match documents.next() {
            None => break,
            Some(Ok(document)) => reader.document(document)?,
            Some(Err(error)) => {
                let line = 1 + bytes[..documents.byte_offset().min(bytes.len())].iter().filter(|byte| **byte == b'\n').count();
                return Err(file(format!("document {number} (from line {line} on) is not JSON: {error}")));
            }
        }
    }
    if records.len() == begin {
        return Err(file(
            "has no record; it takes CloudTrail records (S3 objects, `aws cloudtrail lookup-events`, EventBridge events, JSON lines), \
             Kubernetes audit logs and `kubectl get events -o json`"
                .into(),
        ));
    }
    Ok(())
}

struct Reader<'a> {
    name: &'a str,
    begin: usize,
    records: &'a mut Vec<Record>,
}

impl Reader<'_> {
    fn here(&self) -> String {
        format!("{} record {}", self.name, self.records.len() - self.begin + 1)
    }

    fn wrong<T>(&self, message: impl Into<String>) -> Result<T, ImportError> {
        Err(ImportError::Record { record: self.here(), message: message.into() })
    }

    /// A record inside a text, as CloudTrail's look-ups and CloudWatch's logs have them.
    fn text(&mut self, text: &str) -> Result<(), ImportError> {
        match serde_json::from_str(text) {
            Ok(inner) => self.document(inner),
            Err(error) => self.wrong(format!("the text in it is not JSON: {error}")),
        }
    }

    fn all(&mut self, documents: Vec<Value>) -> Result<(), ImportError> {
        documents.into_iter().try_for_each(|document| self.document(document))
    }

    fn document(&mut self, mut json: Value) -> Result<(), ImportError> {
        if let Value::Array(documents) = json {
            return self.all(documents);
        }
        // An S3 object; a look-up; a list of Kubernetes.
        for name in ["Records", "Events", "items"] {
            if let Some(Value::Array(documents)) = json.get_mut(name).map(Value::take) {
                return self.all(documents);
            }
        }
        for name in ["CloudTrailEvent", "message", "@message"] {
            if let Some(text) = json.get(name).and_then(Value::as_str).filter(|text| text.trim_start().starts_with('{')) {
                let text = text.to_owned();
                return self.text(&text);
            }
        }
        // `aws logs filter-log-events`.
        if let Some(Value::Array(documents)) = json.get_mut("events").map(Value::take) {
            return self.all(documents);
        }
        if json.get("detail").is_some_and(Value::is_object) && !word(&json, "detail-type").is_empty() {
            if word(&json, "detail-type").ends_with("via CloudTrail") {
                let detail = json["detail"].take();
                return self.document(detail);
            }
            return self.add(Form::Notice, json);
        }
        // `kubectl get -o json --output-watch-events`.
        if matches!(word(&json, "type").as_str(), "ADDED" | "MODIFIED") && json.get("object").is_some_and(Value::is_object) {
            let object = json["object"].take();
            return self.document(object);
        }
        let form = match (word(&json, "kind").as_str(), word(&json, "apiVersion").as_str()) {
            _ if !word(&json, "eventSource").is_empty() && !word(&json, "eventName").is_empty() => Form::CloudTrail,
            ("Event", version) if version.starts_with("audit.k8s.io/") => Form::Audit,
            ("Event", _) => Form::Event,
            _ if json.get("involvedObject").is_some() || json.get("regarding").is_some() => Form::Event,
            (kind, version) => {
                let what = if kind.is_empty() { "an object without `kind` or `eventName`".into() } else { format!("a {version} {kind}") };
                return self.wrong(format!("{what} is neither a CloudTrail record nor a Kubernetes audit event nor a Kubernetes event"));
            }
        };
        self.add(form, json)
    }

    fn add(&mut self, form: Form, json: Value) -> Result<(), ImportError> {
        let from = self.here();
        self.records.push(Record { from, form, json });
        Ok(())
    }
}

fn word(json: &Value, name: &str) -> String {
    json.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}
