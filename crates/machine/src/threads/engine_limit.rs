//! How much the engine may hold of the host's memory beside the guest's pages, over all lives of the guest and all its engines.

use std::sync::{Arc, Weak};

use api::EngineMemoryBook;
use host::lock::Lock;
use vcpu::EngineMemory;

/// See the module.
#[derive(Default)]
pub(crate) struct EngineLimit(Lock<State>);

#[derive(Default)]
struct State {
    limit_bytes: Option<u64>,
    /// What a limit of the whole VM leaves for it.
    share_bytes: Option<u64>,
    /// What the present engine holds; none where that is not ours.
    engine: Option<Weak<dyn EngineMemory>>,
}

impl State {
    fn most(&self) -> Option<u64> {
        self.limit_bytes.into_iter().chain(self.share_bytes).min()
    }

    fn tell(&self) {
        if let Some(engine) = self.engine() {
            engine.set_limit(self.most());
        }
    }

    fn engine(&self) -> Option<Arc<dyn EngineMemory>> {
        self.engine.as_ref()?.upgrade()
    }
}

impl std::fmt::Debug for EngineLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineLimit").finish_non_exhaustive()
    }
}

impl EngineLimit {
    /// So many bytes from now on, whatever the engine.
    pub(crate) fn set(&self, limit_bytes: Option<u64>) {
        if limit_bytes.is_some() {
            // Tables that are given back are to go back to the host.
            host::heap::map_large();
        }
        let mut state = self.0.lock();
        state.limit_bytes = limit_bytes;
        state.tell();
    }

    /// A limit of the whole VM leaves so many bytes for the engine from now on; whether that is another number than before.
    pub(crate) fn share(&self, share_bytes: Option<u64>) -> bool {
        let mut state = self.0.lock();
        if state.share_bytes == share_bytes {
            return false;
        }
        state.share_bytes = share_bytes;
        state.tell();
        true
    }

    /// Bytes held, and of these bytes of code; `None` where that is not ours.
    pub(crate) fn held(&self) -> Option<(u64, u64)> {
        let engine = self.0.lock().engine()?;
        Some((engine.held_bytes(), engine.code_bytes()))
    }

    /// The guest is on this engine from now on.
    pub(crate) fn serve(&self, engine: Option<&Arc<dyn EngineMemory>>) {
        let mut state = self.0.lock();
        if let Some(engine) = engine
            && let Some(most) = state.most()
        {
            engine.set_limit(Some(most));
        }
        state.engine = engine.map(Arc::downgrade);
    }

    /// How much may be held.
    pub(crate) fn limit_bytes(&self) -> Option<u64> {
        self.0.lock().limit_bytes
    }

    /// What is held, and may be; none between two lives, and where it is not ours.
    pub(crate) fn book(&self) -> Option<EngineMemoryBook> {
        let state = self.0.lock();
        Some(EngineMemoryBook {
            held_bytes: state.engine()?.held_bytes(),
            limit_bytes: state.limit_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Engine(AtomicU64);

    impl EngineMemory for Engine {
        fn held_bytes(&self) -> u64 {
            77
        }

        fn code_bytes(&self) -> u64 {
            7
        }

        fn set_limit(&self, bytes: Option<u64>) {
            self.0.store(bytes.unwrap_or(0), Ordering::Relaxed);
        }
    }

    #[test]
    fn a_limit_holds_for_every_engine_that_comes() {
        let limit = EngineLimit::default();
        assert_eq!(limit.book(), None);
        limit.set(Some(5));
        let engines = [Arc::new(Engine::default()), Arc::new(Engine::default())];
        let check = |limit_bytes, told: [u64; 2]| {
            let book = EngineMemoryBook {
                held_bytes: 77,
                limit_bytes,
            };
            assert_eq!(limit.book(), Some(book));
            assert_eq!(
                engines
                    .each_ref()
                    .map(|engine| engine.0.load(Ordering::Relaxed)),
                told
            );
        };
        let objects = engines
            .each_ref()
            .map(|engine| engine.clone() as Arc<dyn EngineMemory>);
        limit.serve(Some(&objects[0]));
        check(Some(5), [5, 0]);
        limit.serve(Some(&objects[1]));
        limit.set(Some(6));
        check(Some(6), [5, 6]);
        assert!(limit.share(Some(4)) && !limit.share(Some(4)));
        check(Some(6), [5, 4]);
        limit.share(None);
        check(Some(6), [5, 6]);
        assert_eq!(limit.held(), Some((77, 7)));
        limit.set(None);
        check(None, [5, 0]);
        limit.serve(None);
        assert_eq!(limit.book(), None);
    }
}
