//! Users' devices.

use super::*;

pub async fn a_device_has_its_name_key_and_address_alone(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    let org: &OrgSlug = &parsed(DEFAULT_ORGANIZATION);
    let network = store.read(|tx| async move { tx.network_list(org).await }).await.unwrap().remove(0);
    let node = &NewNode {
        name: parsed("ams1"),
        region: parsed("ams"),
        key_fingerprint: "a".into(),
        kept_epoch: None,
        may_replace_key: false,
        cpus: 1,
        memory_mb: 1,
    };
    store.write(|tx| async move { tx.node_enrol(node, NOW).await }).await.unwrap();
    let create = async |name: &str, key: &str| {
        let new = &NewDevice {
            name: parsed(name),
            org: org.clone(),
            network: network.id,
            public_key: key.into(),
            gateway: parsed("ams1"),
        };
        store.write(|tx| async move { tx.device_create(new, NOW).await }).await
    };
    let laptop = create("laptop", "one").await.unwrap();
    assert_eq!((laptop.network_name.as_str(), laptop.gateway.as_str()), (DEFAULT_NETWORK, "ams1"));
    assert_eq!(create("laptop", "two").await.unwrap_err().kind(), ErrorKind::Taken);
    assert_eq!(create("phone", "one").await.unwrap_err().kind(), ErrorKind::Taken);
    let phone = create("phone", "two").await.unwrap();
    assert_ne!(phone.address, laptop.address);

    let of_org = || store.read(|tx| async move { tx.devices_of(org).await });
    assert_eq!(of_org().await.unwrap(), [laptop.clone(), phone.clone()]);
    let name = &laptop.name;
    let remove = || store.write(|tx| async move { tx.device_remove(org, name).await });
    assert_eq!(remove().await.unwrap(), laptop);
    assert_eq!(remove().await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.read(|tx| async move { tx.devices().await }).await.unwrap(), [phone]);
    let again = create("laptop", "one").await.unwrap();
    assert_ne!(again.address, laptop.address, "an address comes back to nobody");
}
