//! The allocator and its settings, for a program that says `use signet_allocator as _`. glibc's keeps what a burst took
//! (../shared/crates.md 12), so it serves nobody here: jemalloc takes malloc's own names, and the keys that aws-lc keeps for each
//! connection come from it as well.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// One arena, since one thread works in a data plane and none is busy in the control plane; what is freed goes back to the kernel
/// after a second, by a thread of jemalloc's own, because an idle process calls nothing that could do it.
/// Without cache_oblivious a buffer of 16 KiB costs four pages and not five.
#[expect(
    unsafe_code,
    reason = "jemalloc finds its settings by this symbol's name, which no other crate exports"
)]
#[unsafe(export_name = "malloc_conf")]
#[used]
pub static SETTINGS: &[u8; 92] =
    b"narenas:1,cache_oblivious:false,dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:true\0";
