//! The allocator of every long-running program of ours, and its settings. glibc's keeps what a burst took (../shared/crates.md 12),
//! so it serves nobody here: jemalloc takes malloc's own names, and the keys that aws-lc keeps for each connection come from it as
//! well.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's settings for this program; said once, in `main.rs`.
///
/// One arena, since one thread works in a data plane and none is busy in the control plane. Without cache_oblivious a buffer of
/// 16 KiB costs four pages and not five, and with tcache_max no thread keeps such buffers for itself. What is freed goes back to
/// the kernel after `dirty_ms` milliseconds, by a thread of jemalloc's own, because an idle process calls nothing that could do it.
///
/// With 0 it goes at once. That costs a call for each page, and spares a process that sets up many long-lived connections from
/// holding all their half-empty buffers on pages that the handshakes wrote to: 20 kB for each stream of the controller.
#[macro_export]
macro_rules! settings {
    (dirty_ms = $dirty_ms:literal) => {
        #[expect(
            unsafe_code,
            reason = "jemalloc finds its settings by this symbol's name, which nobody else exports"
        )]
        #[unsafe(export_name = "malloc_conf")]
        #[used]
        static MALLOC_CONF: &u8 = &concat!(
            "narenas:1,tcache_max:4096,cache_oblivious:false,muzzy_decay_ms:0,background_thread:true,dirty_decay_ms:",
            $dirty_ms,
            "\0"
        )
        .as_bytes()[0];
    };
}
