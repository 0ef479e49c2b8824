fn main() {
    let mut args = std::env::args().skip(1);
    let first: u64 = args.next().unwrap().parse().unwrap();
    let count: u64 = args.next().map_or(1, |t| t.parse().unwrap());
    let mut failed = 0;
    for seed in first..first + count {
        if let Err(failure) = millstream_sim::run(seed, None) {
            failed += 1;
            if count == 1 {
                println!("{failure}");
            } else {
                println!("{seed}: {}", failure.what);
            }
        }
    }
    println!("{failed} of {count} failed");
}
