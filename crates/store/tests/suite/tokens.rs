//! Tokens of people and of joining nodes.

use super::*;

pub fn join_token() -> NewToken {
    NewToken {
        kind: TokenKind::NodeJoin,
        name: "join".into(),
        org: None,
        app: None,
        region: None,
        node: None,
        created_by: "tester".into(),
        expires_at_ms: Some(NOW + 900_000),
    }
}

pub async fn create_token(store: &Store, hash: TokenHash, new: &NewToken) -> Token {
    store.write(|tx| async move { tx.token_create(&hash, new, NOW).await }).await.unwrap()
}

pub async fn redeem(store: &Store, hash: TokenHash, node: &str, key: &str, now_ms: u64) -> Result<Token, StoreError> {
    let (node, region): (&NodeName, RegionCode) = (&parsed(node), parsed("ams"));
    store.write(|tx| async move { tx.join_token_redeem(&hash, node, region, key, now_ms).await }).await
}

pub async fn a_join_token_admits_one_node(store: &Store) {
    let hash = |number: u8| TokenHash([number; 32]);
    create_token(store, hash(1), &join_token()).await;
    redeem(store, hash(1), "ams1", "key", NOW).await.unwrap();
    redeem(store, hash(1), "ams1", "key", NOW + 1).await.expect("a lost answer may be asked for again");
    let reason = |result: Result<Token, StoreError>| result.unwrap_err().to_string();
    assert!(reason(redeem(store, hash(1), "ams2", "key", NOW).await).contains("used already"));
    assert!(reason(redeem(store, hash(1), "ams1", "other key", NOW).await).contains("used already"));
    assert!(reason(redeem(store, hash(9), "ams1", "key", NOW).await).contains("unknown"));

    create_token(store, hash(2), &join_token()).await;
    assert!(reason(redeem(store, hash(2), "ams1", "key", NOW + 900_000).await).contains("expired"));
    create_token(store, hash(3), &NewToken { region: Some(parsed("nrt")), ..join_token() }).await;
    assert!(reason(redeem(store, hash(3), "ams1", "key", NOW).await).contains("another region"));
    create_token(store, hash(4), &NewToken { node: Some(parsed("ams7")), ..join_token() }).await;
    assert!(reason(redeem(store, hash(4), "ams1", "key", NOW).await).contains("another node"));
    create_token(store, hash(5), &NewToken { kind: TokenKind::Owner, ..join_token() }).await;
    assert!(reason(redeem(store, hash(5), "ams1", "key", NOW).await).contains("unknown"));
}

pub async fn tokens_end_when_revoked_or_expired(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    let new = NewToken {
        kind: TokenKind::Deploy,
        org: Some(parsed(DEFAULT_ORGANIZATION)),
        app: Some(parsed("web")),
        ..join_token()
    };
    let token = create_token(store, TokenHash([1; 32]), &new).await;
    assert!(token.is_live(NOW) && !token.is_live(NOW + 900_000));
    assert_eq!(token.app, Some(parsed("web")));
    let id = token.id.as_str();
    for now in [NOW + 1, NOW + 2] {
        store.write(|tx| async move { tx.token_revoke(id, now).await }).await.unwrap();
    }
    let hash = TokenHash([1; 32]);
    let found = store.read(|tx| async move { tx.token_find(&hash).await }).await.unwrap();
    let found = found.unwrap();
    assert_eq!(found.revoked_at_ms, Some(NOW + 1), "the first revocation counts");
    assert!(!found.is_live(NOW + 3));
    let unknown = TokenHash([2; 32]);
    let none = store.read(|tx| async move { tx.token_find(&unknown).await }).await.unwrap();
    assert_eq!(none, None);
}
