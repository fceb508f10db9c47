//! One suite over every store.

#[path = "store_contract/suite.rs"]
mod suite;

use std::path::Path;
use std::sync::Arc;

use vault::durable::{FileSystem, RealFs, SimFs};
use vault::store::Store;
use vault::store::local::LocalStore;
use vault::store::memory::MemoryStore;

async fn local(fs: Arc<dyn FileSystem>, root: &Path) {
    let open = || {
        let store: Arc<dyn Store> =
            Arc::new(LocalStore::create_on(Arc::clone(&fs), root.join("vault")).unwrap());
        store
    };
    suite::run(open(), || async {
        let store: Arc<dyn Store> =
            Arc::new(LocalStore::open_on(Arc::clone(&fs), root.join("vault")).unwrap());
        store
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_store() {
    let store = MemoryStore::new();
    suite::run(Arc::new(store.clone()), || async {
        let store: Arc<dyn Store> = Arc::new(store.clone());
        store
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_store() {
    let directory = tempfile::tempdir().unwrap();
    local(Arc::new(RealFs::new()), directory.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_store_without_the_rename_flag() {
    let directory = tempfile::tempdir().unwrap();
    local(Arc::new(RealFs::without_rename_flag()), directory.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_store_without_links() {
    let directory = tempfile::tempdir().unwrap();
    local(Arc::new(RealFs::without_links()), directory.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_store_on_the_simulated_file_system() {
    local(Arc::new(SimFs::new()), Path::new("/")).await;
}
