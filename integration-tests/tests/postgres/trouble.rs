//! What statements of handlers do to the server, and locks to both: one command is never in the way of all behind it, and nothing
//! that passes is answered as if it stayed.
//!
//! Servers fail here as triggers and functions tell them to. What a sequence counts stays though its transaction is undone.

use super::*;
use dirigent::participant::Tx;
use std::{sync::atomic::AtomicBool, thread, time::Instant};

/// How often the handler of `rejects-any` was called, and whether the lock in its way is gone.
static CALLS: AtomicU32 = AtomicU32::new(0);
static IS_FREE: AtomicBool = AtomicBool::new(false);

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A shelf whose handlers do what no handler should.
pub(super) fn shelf() -> Participant {
    Participant::new("shelf").on::<Put>(|tx, command, _| Answer::or_failed(put(tx, &command)))
}

fn put(tx: &mut Tx<'_>, command: &Put) -> Result<Answer<Put>, SqlError> {
    let insert = "INSERT INTO shelf (item, box) VALUES ($1, $1)";
    if let Some(code) = command.how.strip_prefix("raises-") {
        tx.sql().execute("SELECT raises($1)", &[&code])?;
    }
    match command.how.as_str() {
        "ends-its-session" => {
            tx.sql().execute("SELECT pg_terminate_backend(pg_backend_pid())", &[])?;
        }
        // As an extension that breaks: all sessions end, and the server begins anew.
        "crashes-the-server" => {
            tx.sql().execute("COPY shelf FROM PROGRAM 'kill -9 $PPID'", &[])?;
        }
        "forbids-itself-to-write" => {
            tx.sql().execute("SET TRANSACTION READ ONLY", &[])?;
        }
        "sleeps" => drop(tx.sql().execute("SELECT pg_sleep(600)", &[])?),
        // Hears that all of it comes again, and answers all the same.
        "swallows" if tx.sql().execute("SELECT raises_once('40001')", &[]).is_err() => {
            assert_eq!(tx.get(b"something"), None);
            return Ok(Answer::Rejected(StandsAlready {}));
        }
        "asks" => {
            let now = "SELECT item FROM shelf WHERE item = 0 FOR UPDATE NOWAIT";
            let locked = tx.sql().attempt(|sql| sql.query(now, &[])).unwrap_err();
            assert_eq!(locked.code(), Some("55P03"));
            return Ok(Answer::Rejected(StandsAlready {}));
        }
        "rejects-any" => {
            let is_first = CALLS.fetch_add(1, Ordering::SeqCst) == 0;
            let begun = Instant::now();
            while !is_first && !IS_FREE.load(Ordering::SeqCst) && begun.elapsed() < PATIENCE {
                thread::sleep(LOOK_EVERY);
            }
            let changed = tx.sql().execute("UPDATE shelf SET box = NULL WHERE item = 0", &[]);
            if changed.is_err() {
                return Ok(Answer::Rejected(StandsAlready {}));
            }
        }
        _ => {}
    }
    tx.sql().execute(insert, &[&command.item])?;
    Ok(Answer::Done(Stands {}))
}

/// A bench with a server that fails as it is told.
pub(super) async fn bench_at(address: &str) -> Bench {
    let bench = Bench::at(address).await;
    let makes = "ALTER TABLE shelf DROP CONSTRAINT shelf_box_fkey;
         CREATE SEQUENCE raised;
         CREATE FUNCTION raises(code text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'out of order' USING ERRCODE = code, DETAIL = 'Key (email)=(a@example)';
         END $$;
         CREATE FUNCTION raises_once(code text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('raised') = 1 THEN PERFORM raises(code); END IF;
         END $$";
    bench.db.batch_execute(makes).await.unwrap();
    bench
}

async fn start(bench: &Bench, kit: PostgresAddress) -> Running {
    bench.start_with(shelf(), kit).await
}

impl Bench {
    /// Has a table fail at what is done to it, as long as the number of the try fits.
    async fn fails(&self, table: &str, event: &str, code: &str, when: &str) {
        let (schema, name) = (&self.schema, table.replace('.', "_"));
        let makes = format!(
            "CREATE SEQUENCE tries_{name};
             CREATE FUNCTION fails_{name}() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE try bigint := nextval('{schema}.tries_{name}');
             BEGIN
                 IF {when} THEN PERFORM {schema}.raises('{code}'); END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER fails_{name} AFTER {event} ON {table}
                 FOR EACH STATEMENT EXECUTE FUNCTION fails_{name}()"
        );
        self.db.batch_execute(&makes).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_at_which_the_server_always_fails_is_answered_and_those_beside_it_are_done() {
    let server = server!(postgres);
    let mut bench = bench_at(server.address()).await;
    let running = start(&bench, bench.kit()).await;
    // Of an extension, of a file that is gone, of a link to another server, of a limit.
    let hows = ["well", "raises-XX000", "raises-58P01", "raises-08001", "raises-53400", "well"];
    let window: Vec<_> = (0..).zip(hows).map(|(item, how)| asked(item, how)).collect();
    bench.send(&window).await;
    let replies = bench.hears(6).await;
    let names: Vec<_> = replies.iter().map(name_of).collect();
    assert_eq!(names, ["Stands", "Failure", "Failure", "Failure", "Failure", "Stands"]);
    for (reply, code) in replies[1..].iter().zip(["XX000", "58P01", "08001", "53400"]) {
        let failure = failure(reply);
        assert_eq!((failure.code.as_str(), failure.retriable), ("not-kept", true));
        assert_eq!(failure.effect, FailureEffect::Unknown);
        assert!(failure.message.contains(&format!("out of order ({code})")), "{failure:?}");
        assert!(!failure.message.contains('@'), "what is in rows stays there: {failure:?}");
    }
    assert_eq!(bench.items().await, [0, 5]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_always_ends_its_session_or_forbids_itself_to_write_is_answered() {
    let server = server!(postgres);
    let mut bench = bench_at(server.address()).await;
    let running = start(&bench, bench.kit()).await;
    let hows = ["well", "ends-its-session", "forbids-itself-to-write", "well"];
    let window: Vec<_> = (0..).zip(hows).map(|(item, how)| asked(item, how)).collect();
    bench.send(&window).await;
    let replies = bench.hears(4).await;
    let names: Vec<_> = replies.iter().map(name_of).collect();
    assert_eq!(names, ["Stands", "Failure", "Failure", "Stands"]);
    for (reply, why) in replies[1..].iter().zip(["ended the session in it", "read-only"]) {
        let failure = failure(reply);
        assert_eq!((failure.code.as_str(), failure.retriable), ("not-kept", true));
        assert_eq!(failure.effect, FailureEffect::Unknown);
        assert!(failure.message.contains(why), "{failure:?}");
    }
    assert_eq!(bench.items().await, [0, 3]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_always_brings_the_server_down_is_answered_and_a_server_that_is_away_waited_for()
 {
    let server = Arc::new(server!(postgres_private));
    let mut bench = bench_at(server.address()).await;
    let running = start(&bench, bench.kit()).await;
    assert_eq!(name_of(&bench.asks(0, "well").await), Stands::NAME);
    // Far longer away than what a command is tried for.
    server.kill().unwrap();
    bench.send(&[asked(1, "well")]).await;
    let again = Arc::clone(&server);
    spawn_blocking(move || again.restart().unwrap()).await.unwrap();
    assert_eq!(name_of(&bench.hears(1).await[0]), Stands::NAME);
    let failure = failure(&bench.asks(2, "crashes-the-server").await);
    assert_eq!((failure.code.as_str(), failure.effect), ("not-kept", FailureEffect::Unknown));
    assert!(failure.message.contains("ended the session in it"), "{failure:?}");
    assert_eq!(name_of(&bench.asks(3, "well").await), Stands::NAME);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_no_longer_counts_is_waited_for_by_a_participant_that_runs() {
    let server = server!(postgres);
    let mut bench = bench_at(server.address()).await;
    let role = format!("role_{}", bench.schema);
    bench
        .db
        .batch_execute(&format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'dirigent'"))
        .await
        .unwrap();
    let own = server.address().replace("//dirigent:", &format!("//{role}:"));
    let mut running = start(&bench, bench.kit_by(&own)).await;
    assert_eq!(name_of(&bench.asks(0, "well").await), Stands::NAME);
    let changes = format!(
        "ALTER ROLE {role} PASSWORD 'another';
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
    );
    bench.db.batch_execute(&changes).await.unwrap();
    let told = opened(bench.kit_by(&own)).await.unwrap_err().to_string();
    assert!(told.contains("check user and password"), "{told}");
    bench.send(&[asked(1, "well")]).await;
    tokio::select! {
        ended = running.ended() => panic!("it ended: {ended:?}"),
        () = tokio::time::sleep(LOOK_EVERY * 100) => {}
    }
    let changes_back = format!("ALTER ROLE {role} PASSWORD 'dirigent'");
    bench.db.batch_execute(&changes_back).await.unwrap();
    assert_eq!(name_of(&bench.hears(1).await[0]), Stands::NAME);
    running.stop().await.unwrap();
    bench.db.batch_execute(&format!("REASSIGN OWNED BY {role} TO CURRENT_USER")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_takes_longer_than_an_answer_may_is_cancelled_and_its_command_answered() {
    let server = server!(postgres);
    let mut bench = bench_at(server.address()).await;
    let kit = bench.kit().answer_within(Duration::from_secs(2));
    let running = start(&bench, kit).await;
    let failure = failure(&bench.asks(1, "sleeps").await);
    assert_eq!(failure.code, "not-kept");
    assert!(failure.message.contains("no answer within 2s"), "{failure:?}");
    assert_eq!(name_of(&bench.asks(2, "well").await), Stands::NAME);
    assert_eq!(bench.items().await, [2]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_passes_makes_no_answer_and_one_that_is_asked_for_without_waiting_does() {
    let server = server!(postgres);
    let mut bench = bench_at(server.address()).await;
    let named = if server.address().contains('?') { '&' } else { '?' };
    let short = format!("{}{named}options=-c%20lock_timeout%3D200", server.address());
    let running = start(&bench, bench.kit_by(&short)).await;
    bench.asks(0, "well").await;
    bench.db.batch_execute("BEGIN; UPDATE shelf SET box = 7 WHERE item = 0").await.unwrap();
    assert_eq!(name_of(&bench.asks(1, "asks").await), StandsAlready::NAME);
    bench.send(&[asked(2, "rejects-any")]).await;
    let called_again = async {
        while CALLS.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    timeout(PATIENCE, called_again).await.expect("the handler is called again");
    bench.db.batch_execute("COMMIT").await.unwrap();
    IS_FREE.store(true, Ordering::SeqCst);
    assert_eq!(name_of(&bench.hears(1).await[0]), Stands::NAME);
    assert_eq!(bench.items().await, [0, 2]);
    assert_eq!(running.stop().await.unwrap().rejected, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_on_the_kits_tables_are_charged_to_no_command() {
    let server = server!(postgres);
    let mut bench = bench_at(server.address()).await;
    let running = start(&bench, bench.kit()).await;
    bench.asks(0, "well").await;
    // Every second one only: what is tried between, to take the work up again, succeeds.
    let place = format!("{}_kit.place", bench.schema);
    bench.fails(&place, "UPDATE", "55P03", "try % 2 = 1 AND try <= 11").await;
    assert_eq!(name_of(&bench.asks(1, "well").await), Stands::NAME);
    assert_eq!(bench.items().await, [0, 1]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_for_the_kit_too_is_waited_for_however_often_a_handler_met_it() {
    let server = server!(postgres);
    let mut bench = bench_at(server.address()).await;
    let running = start(&bench, bench.kit()).await;
    bench.fails("shelf", "INSERT", "53100", "try <= 5").await;
    bench.fails(&format!("{}_kit.record", bench.schema), "INSERT", "53100", "try = 1").await;
    assert_eq!(name_of(&bench.asks(1, "well").await), Stands::NAME);
    assert_eq!(bench.items().await, [1]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_waits_for_the_commit_and_is_forbidden_something_fails_its_handler_only() {
    let server = server!(postgres);
    let mut bench = bench_at(server.address()).await;
    let running = start(&bench, bench.kit()).await;
    let schema = &bench.schema;
    let makes = format!(
        "CREATE FUNCTION checks() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.item = 2 THEN PERFORM {schema}.raises('42501'); END IF;
             -- Only once nothing can be asked any more: this one is the commit's.
             IF NEW.item = 3 AND nextval('{schema}.raised') % 2 = 0 THEN
                 PERFORM {schema}.raises('42P01');
             END IF;
             RETURN NULL;
         END $$;
         CREATE CONSTRAINT TRIGGER checks AFTER INSERT ON shelf DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION checks()"
    );
    bench.db.batch_execute(&makes).await.unwrap();
    bench.send(&[asked(1, "well"), asked(2, "well"), asked(4, "well")]).await;
    let replies = bench.hears(3).await;
    let names: Vec<_> = replies.iter().map(name_of).collect();
    assert_eq!(names, ["Stands", "Failure", "Stands"]);
    let refused = failure(&replies[1]);
    assert_eq!(refused.code, "not-kept");
    assert!(refused.message.contains("out of order (42501)"), "{refused:?}");
    let refused = failure(&bench.asks(3, "well").await);
    assert!(refused.message.contains("out of order (42P01)"), "{refused:?}");
    assert_eq!(bench.items().await, [1, 4]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_answers_though_all_of_it_comes_again_is_not_heard() {
    let server = server!(postgres);
    let mut bench = bench_at(server.address()).await;
    let running = start(&bench, bench.kit()).await;
    assert_eq!(name_of(&bench.asks(1, "swallows").await), Stands::NAME);
    assert_eq!(bench.items().await, [1]);
    running.stop().await.unwrap();
}
