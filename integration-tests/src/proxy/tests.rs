//! What the proxy does to bytes.

use super::*;

/// A broker that says everything back, a proxy before it, and a connection through it.
async fn through(plan: Plan) -> (TcpStream, Proxy) {
    struct Always(Plan);
    impl Director for Always {
        fn plan(&self, _: u64) -> Plan {
            self.0
        }
        fn ended(&self, _: u64, _: &Plan, _: Carried) {}
    }
    let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has ports");
    let address = echo.local_addr().expect("it is bound").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                drop(tokio::io::copy(&mut from, &mut to).await);
            });
        }
    });
    let proxy = Bound::any().await.expect("a port").carry_to(address, Arc::new(Always(plan)));
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.expect("it listens");
    (client, proxy)
}

async fn says(mut client: TcpStream, bytes: usize) -> (usize, bool) {
    drop(client.write_all(&vec![7; bytes]).await);
    drop(client.shutdown().await);
    let mut heard = Vec::new();
    let reset = client.read_to_end(&mut heard).await.is_err();
    (heard.len(), reset)
}

fn cut(after: u64, cut: Cut) -> Way {
    Way { cut: Some((after, cut)), delay: Duration::ZERO }
}

#[tokio::test]
async fn without_a_plan_all_bytes_come_through_both_ways() {
    let (client, _proxy) = through(Plan::default()).await;
    assert_eq!(says(client, 100_000).await, (100_000, false));
}

#[tokio::test]
async fn a_half_that_is_closed_delivers_exactly_the_bytes_before() {
    for after in [0, 1, 999, 1_000] {
        let (client, _proxy) =
            through(Plan { up: cut(after, Cut::HalfClose), ..Plan::default() }).await;
        assert_eq!(says(client, 1_000).await.0 as u64, after);
        let (client, _proxy) =
            through(Plan { down: cut(after, Cut::HalfClose), ..Plan::default() }).await;
        assert_eq!(says(client, 1_000).await.0 as u64, after);
    }
}

#[tokio::test]
async fn a_reset_and_a_silence_end_with_an_error() {
    for how in [Cut::Reset, Cut::Silence(Duration::from_millis(20))] {
        let (client, _proxy) = through(Plan { up: cut(10, how), ..Plan::default() }).await;
        let (heard, reset) = says(client, 1_000).await;
        assert!(heard <= 10 && reset, "{how:?}: {heard} bytes");
    }
}

#[tokio::test]
async fn all_connections_can_be_reset_at_once() {
    let (mut client, proxy) = through(Plan::default()).await;
    client.write_all(b"hello").await.expect("it is open");
    let mut heard = [0; 5];
    client.read_exact(&mut heard).await.expect("it is said back");
    proxy.reset_all();
    assert!(client.read_to_end(&mut Vec::new()).await.is_err());
}
