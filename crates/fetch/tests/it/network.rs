//! The real sources, on request: they take bandwidth and another's servers.

use std::time::Instant;

use evalign_core::Digest;
use evalign_fetch::{BUILT_INS, Event, Home, Hub, HubConfig, ModelState, Models, PullOptions, file_digest};

#[tokio::test]
async fn the_built_in_models_can_be_had() {
    if std::env::var("EVALIGN_TEST_NETWORK").is_err() {
        println!("skipped: EVALIGN_TEST_NETWORK is not set");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("hub").display().to_string();
    let config = HubConfig::from_lookup(|name| match name {
        "HF_HUB_CACHE" => Some(cache.clone()),
        name => std::env::var(name).ok(),
    });
    let models = Models::new(Home::at(dir.path().join("home")), Hub::new(config.unwrap()), false);
    for model in BUILT_INS {
        let began = Instant::now();
        let tell = |event: Event<'_>| println!("{:6.2} s {event:?}", began.elapsed().as_secs_f64());
        let reference = models.reference(model.alias).unwrap();
        let pulled = models.pull(&reference, &PullOptions::default(), &tell).await.unwrap();
        println!(
            "{}: {:?} in {:.1} s, {}",
            model.alias,
            pulled.source,
            began.elapsed().as_secs_f64(),
            pulled.path.display()
        );
        let weights = if model.single_file { pulled.path } else { pulled.path.join("model.safetensors") };
        assert_eq!(file_digest(&weights).unwrap().0, Digest::parse(model.weights_sha256()).unwrap());
        let began = Instant::now();
        models.resolve(model.alias, &evalign_fetch::silent).await.unwrap();
        println!("{}: found and checked again in {:.3} s", model.alias, began.elapsed().as_secs_f64());
    }
    assert!(models.list(true).unwrap().iter().all(|entry| entry.state == ModelState::Present));
}
