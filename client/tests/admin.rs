//! Admin calls over a connection that is lost: what is repeated, and what is not.

mod support;

use millstream_client::{Client, Code, Outcome, StreamConfig};
use support::{Fake, STREAM};

#[tokio::test]
async fn a_question_is_asked_again_once_over_a_new_connection() {
    let fake = Fake::start();
    let client = fake.client().await;
    *fake.state.cut_requests.lock() = 1;
    assert_eq!(client.describe_stream(STREAM).await.expect("the second time").name, STREAM);
    assert_eq!(fake.state.requests.lock().len(), 2);
    *fake.state.cut_requests.lock() = 2;
    let error = client.list_streams().await.expect_err("once is enough");
    assert_eq!((error.code(), error.outcome()), (Code::ConnectionLost, Outcome::Indefinite));
    assert!(client.list_streams().await.is_ok(), "the next call has a new connection");
}

#[tokio::test]
async fn creating_and_deleting_are_never_repeated_and_their_outcome_is_unknown() {
    let fake = Fake::start();
    let client = fake.client().await;
    *fake.state.cut_requests.lock() = 1;
    let error = client.create_stream("a", 1, StreamConfig::default()).await.expect_err("cut");
    assert_eq!((error.code(), error.outcome()), (Code::ConnectionLost, Outcome::Indefinite));
    *fake.state.cut_requests.lock() = 1;
    let error = client.delete_stream("a").await.expect_err("cut");
    assert_eq!((error.code(), error.outcome()), (Code::ConnectionLost, Outcome::Indefinite));
    assert_eq!(fake.state.requests.lock().len(), 2);
    client.delete_stream("a").await.expect("there is a connection again");
}

#[tokio::test]
async fn a_refusal_is_an_error_with_its_code_and_text() {
    let fake = Fake::start();
    let error = fake.client().await.describe_stream("nowhere").await.expect_err("there is none");
    assert_eq!((error.code(), error.to_string().as_str()), (Code::UnknownStream, "no stream \"nowhere\""));
}

#[tokio::test]
async fn more_requests_than_may_be_in_flight_wait_for_their_turn() {
    let fake = Fake::start();
    let client = fake.client().await;
    let ask = |client: Client| async move { client.describe_stream(STREAM).await.map(|info| info.id) };
    let answers = futures::future::join_all((0..600).map(|_| ask(client.clone()))).await;
    assert!(answers.into_iter().all(|answer| answer.expect("it answers") == 5));
}

#[tokio::test]
async fn a_closed_client_says_so() {
    let fake = Fake::start();
    let client = fake.client().await;
    let other = client.clone();
    client.close().await;
    assert_eq!(other.list_streams().await.expect_err("closed for all").code(), Code::NotAllowed);
}
