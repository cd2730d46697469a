//! The mail servers by which services send: whether they are got to, and say what a mail server says.

use std::io;
use std::time::Duration;

use futures_util::future::join_all;
use model::{Finding, Grade, ServiceName};
use supervisor::apps::MailSecurity;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::found;

/// For the connection and the greeting. Many servers wait a little before they greet.
const DEADLINE: Duration = Duration::from_millis(3500);
/// A line of SMTP (RFC 5321, 4.5.3.1.5).
const LONGEST_LINE: u64 = 512;
/// The greeting of a server that takes mail.
const READY: &str = "220";
/// Where servers take mail from each other, which providers forbid their customers.
const BETWEEN_SERVERS: u16 = 25;

/// By what server a service sends mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailServer {
    /// The service.
    pub service: ServiceName,
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub security: MailSecurity,
}

/// A finding for each server.
pub async fn mail(servers: Vec<MailServer>) -> Vec<Finding> {
    let looks = servers.into_iter().map(|server| async move {
        let greeted = timeout(DEADLINE, greeting(&server)).await;
        judged(&server, greeted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
    });
    join_all(looks).await
}

/// What the server says first; nothing where TLS comes before that.
async fn greeting(server: &MailServer) -> io::Result<Option<String>> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
    if server.security == MailSecurity::Tls {
        return Ok(None);
    }
    let mut line = Vec::new();
    BufReader::new(stream).take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
    Ok(Some(String::from_utf8_lossy(&line).trim().to_owned()))
}

fn judged(server: &MailServer, greeted: io::Result<Option<String>>) -> Finding {
    let MailServer { service, host, port, .. } = server;
    let name = format!("{host}:{port}, by which {service} sends mail,");
    let bad = |text: String, next: String| found("mail", Grade::Bad, text, Some(&next));
    match greeted {
        Ok(None) => found("mail", Grade::Good, format!("{name} accepts connections"), None),
        Ok(Some(line)) if line.starts_with(READY) => {
            found("mail", Grade::Good, format!("{name} answers as a mail server"), None)
        }
        Ok(Some(line)) if line.is_empty() => bad(
            format!("{name} closes the connection without a greeting"),
            format!(
                "does it speak TLS at once? then services.{service}.mail.security is \"tls\", usually with port 465"
            ),
        ),
        Ok(Some(line)) => bad(
            format!("{name} does not take mail: it says {line:?}"),
            format!("ask its provider what that means; is services.{service}.mail.port right?"),
        ),
        Err(error) if error.kind() == io::ErrorKind::TimedOut && *port == BETWEEN_SERVERS => bad(
            format!("{name} does not answer within {} s: most providers block port 25", DEADLINE.as_secs_f32()),
            format!(
                "set services.{service}.mail.port to 587 or 465, if the server takes mail there, or have your provider open port 25"
            ),
        ),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => bad(
            format!("{name} does not answer within {} s", DEADLINE.as_secs_f32()),
            format!(
                "is {port}/tcp let out, at this host and at its provider? are services.{service}.mail.host and port right?"
            ),
        ),
        Err(error) => bad(
            format!("{name} cannot be got to: {error}"),
            format!("are services.{service}.mail.host and port right? is {port}/tcp let out?"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    fn server(port: u16, security: MailSecurity) -> MailServer {
        MailServer { service: "nextcloud".parse().unwrap(), host: "127.0.0.1".to_owned(), port, security }
    }

    /// What is found of a server that says this and no more.
    async fn of(says: &'static str, security: MailSecurity) -> Finding {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(says.as_bytes()).await.unwrap();
        });
        mail(vec![server(port, security)]).await.remove(0)
    }

    #[tokio::test]
    async fn a_mail_server_is_told_from_something_else() {
        let ready = of("220 mail.example.com ESMTP\r\n", MailSecurity::StartTls).await;
        assert!(ready.grade == Grade::Good && ready.text.contains("by which nextcloud sends mail"), "{ready:?}");
        assert_eq!(of("", MailSecurity::Tls).await.grade, Grade::Good);
        let busy = of("554 go away\r\n", MailSecurity::None).await;
        assert!(busy.grade == Grade::Bad && busy.text.contains("554 go away"), "{busy:?}");
        let silent = of("", MailSecurity::StartTls).await;
        assert!(silent.next.as_ref().unwrap().contains("mail.security"), "{silent:?}");
        assert_eq!(of("x".repeat(10_000).leak(), MailSecurity::StartTls).await.grade, Grade::Bad);
    }

    #[test]
    fn a_blocked_port_25_is_told_with_the_usual_way_around() {
        let timed_out = || Err(io::ErrorKind::TimedOut.into());
        let blocked = judged(&server(25, MailSecurity::None), timed_out());
        assert!(blocked.text.contains("most providers block port 25"), "{blocked:?}");
        assert!(blocked.next.unwrap().contains("587 or 465"));
        let other = judged(&server(587, MailSecurity::StartTls), timed_out());
        assert!(!other.text.contains("block") && other.next.unwrap().contains("587/tcp let out"));
    }
}
