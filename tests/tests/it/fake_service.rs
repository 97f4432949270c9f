//! A made-up DynamoDB on this machine, for answers that a real one gives too seldom.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What it does with a request.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// An answer that says this.
    Text(u16, &'static str),
    /// An error of this name.
    Error(u16, &'static str),
    /// A transaction that was not made, by the reason that each of its items gives.
    Cancelled(&'static [&'static str]),
    HangUp,
    Silence,
}

/// The service, until the process ends.
pub(crate) struct FakeService {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeService {
    /// One that gives these answers in turn, and the last of them ever after.
    pub(crate) fn start<const N: usize>(answers: [Answer; N]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        thread::spawn(move || {
            let mut kept = Vec::new();
            for (i, stream) in listener.incoming().enumerate() {
                let Ok(mut stream) = stream else { return };
                let body = body_of(&mut stream);
                seen.lock().unwrap().push(body);
                let answer = answers[i.min(N - 1)];
                if matches!(answer, Answer::Silence) {
                    kept.push(stream);
                } else {
                    send(&mut stream, answer);
                }
            }
        });
        Self { url, requests }
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// The bodies of the requests, in turn.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn body_of(stream: &mut TcpStream) -> String {
    let (mut request, mut part) = (Vec::new(), [0; 16_384]);
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut fields = head.lines().filter_map(|line| line.split_once(": "));
            let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let length = length.map_or(0, |(_, length)| length.parse().unwrap());
            if body.len() >= length {
                return body.to_owned();
            }
        }
        match stream.read(&mut part) {
            Ok(read) if read > 0 => request.extend(&part[..read]),
            _ => return text,
        }
    }
}

fn send(stream: &mut TcpStream, answer: Answer) {
    let error = |code: &str, more: &str| {
        format!(r#"{{"__type":"com.amazonaws#{code}","message":"no"{more}}}"#)
    };
    let (status, body) = match answer {
        Answer::Text(status, body) => (status, body.to_owned()),
        Answer::Error(status, code) => (status, error(code, "")),
        Answer::Cancelled(reasons) => {
            let reason = |code: &&str| format!(r#"{{"Code":"{code}","Message":"no"}}"#);
            let reasons: Vec<_> = reasons.iter().map(reason).collect();
            let more = format!(r#","CancellationReasons":[{}]"#, reasons.join(","));
            (400, error("TransactionCanceledException", &more))
        }
        Answer::HangUp | Answer::Silence => return,
    };
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.0\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
}
