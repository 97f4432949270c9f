//! A Lambda runtime API on the loopback interface: hands out events, and takes the answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};

/// The API, until it is dropped.
#[derive(Debug)]
pub(crate) struct RuntimeApi {
    pub(crate) address: SocketAddr,
    events: mpsc::UnboundedSender<String>,
    answers: mpsc::UnboundedReceiver<(String, Value)>,
    server: tokio::task::JoinHandle<()>,
}

struct Shared {
    events: Mutex<mpsc::UnboundedReceiver<String>>,
    answers: mpsc::UnboundedSender<(String, Value)>,
}

impl RuntimeApi {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (events, waiting) = mpsc::unbounded_channel();
        let (answer, answers) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            events: Mutex::new(waiting),
            answers: answer,
        });
        let server = tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(connection, shared.clone()));
            }
        });
        Self {
            address,
            events,
            answers,
            server,
        }
    }

    /// Has the function handle an event; returns where it posted its answer, and the answer.
    pub(crate) async fn invoke(&mut self, event: String) -> (String, Value) {
        self.events.send(event).unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(60), self.answers.recv());
        answer.await.expect("an answer in time").unwrap()
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Serves the requests of one connection.
async fn serve(connection: TcpStream, shared: Arc<Shared>) {
    let mut connection = BufReader::new(connection);
    while let Some((request, body)) = receive(&mut connection).await {
        let (status, headers, answer) = if request.starts_with("GET ") {
            let Some(event) = shared.events.lock().await.recv().await else {
                return;
            };
            let headers = "Lambda-Runtime-Aws-Request-Id: 8476a536-e9f4-11e8-9739-2dfe598c3fcd\r\n\
                 Lambda-Runtime-Deadline-Ms: 4000000000000\r\n\
                 Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:us-east-1:1:function:f\r\n";
            ("200 OK", headers, event)
        } else {
            let answer = serde_json::from_slice(&body).unwrap();
            let _ = shared.answers.send((request, answer));
            ("202 Accepted", "", String::new())
        };
        let length = answer.len();
        let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n");
        let sent = connection.write_all((head + &answer).as_bytes()).await;
        if sent.is_err() {
            return;
        }
    }
}

/// A request line, and the body that comes with it; none if the connection ends.
async fn receive(connection: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let (mut request, mut length) = (String::new(), 0);
    connection
        .read_line(&mut request)
        .await
        .ok()
        .filter(|read| *read > 0)?;
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).await.ok()?;
        if line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.ok()?;
    Some((request.trim().to_owned(), body))
}
