use super::*;

const NO_FAULTS: fn() -> Nature = Nature::default;

fn write(file: &dyn StorageFile, bytes: &[u8], at: u64) -> io::Result<()> {
    file.write_all_at(&[IoSlice::new(bytes)], at)
}

fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(path), Access::Read).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

#[test]
fn what_was_synced_survives_a_power_loss_and_what_was_not_may_not() {
    let (mut lost, mut torn) = (0, 0);
    for seed in 0..200 {
        let disk = SimDisk::new(seed, NO_FAULTS());
        let file = disk.create(Path::new("/f")).unwrap();
        write(&*file, &[1; 1_000], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        write(&*file, &[2; 3_000], 1_000).unwrap();
        disk.power_loss();
        let found = content(&disk, "/f").unwrap();
        assert_eq!(found[..1_000], [1; 1_000]);
        let new = found[1_000..].iter().filter(|byte| **byte == 2).count();
        lost += usize::from(new == 0);
        torn += usize::from(new > 0 && new < 3_000);
    }
    assert!(lost > 20 && torn > 20, "{lost} {torn}");
}

#[test]
fn a_name_needs_its_directorys_sync_and_a_rename_survives_whole_or_not_at_all() {
    let mut outcomes = std::collections::HashSet::new();
    for seed in 0..50 {
        let disk = SimDisk::new(seed, NO_FAULTS());
        disk.create_dir_all(Path::new("/a")).unwrap();
        disk.create_dir_all(Path::new("/b")).unwrap();
        disk.create(Path::new("/a/f")).unwrap().sync_data().unwrap();
        for path in ["/", "/a", "/b"] {
            disk.sync_dir(Path::new(path)).unwrap();
        }
        disk.create(Path::new("/a/new")).unwrap().sync_data().unwrap();
        disk.rename(Path::new("/a/f"), Path::new("/b/g")).unwrap();
        disk.power_loss();
        let (old, new) = (content(&disk, "/a/f").is_some(), content(&disk, "/b/g").is_some());
        assert!(old != new, "one name, and no file lost");
        outcomes.insert((old, content(&disk, "/a/new").is_some()));
    }
    assert_eq!(outcomes.len(), 4, "every subset happens");
}

#[test]
fn a_failed_sync_is_not_cured_by_the_next_one() {
    let disk = SimDisk::new(1, NO_FAULTS());
    let file = disk.create(Path::new("/f")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    write(&*file, b"old", 0).unwrap();
    file.sync_data().unwrap();
    write(&*file, b"new", 0).unwrap();
    disk.set_nature(|nature| nature.sync_fails_one_in = 1);
    assert!(file.sync_data().is_err());
    disk.set_nature(|nature| nature.sync_fails_one_in = 0);
    file.sync_data().unwrap();
    assert_eq!(content(&disk, "/f").unwrap(), b"new", "the cache still shows it");
    file.evict(0).unwrap();
    assert_eq!(content(&disk, "/f").unwrap(), b"old");
}

#[test]
fn the_dead_do_nothing_and_the_next_process_finds_what_was_written() {
    let disk = SimDisk::new(1, NO_FAULTS());
    let file = disk.create(Path::new("/f")).unwrap();
    write(&*file, b"written", 0).unwrap();
    disk.die_at(Some(disk.calls() + 1));
    assert!(write(&*file, &[9; 100], 7).is_err());
    assert!(disk.is_dead() && file.sync_data().is_err() && disk.list(Path::new("/")).is_err());
    disk.kill();
    assert!(content(&disk, "/f").unwrap().starts_with(b"written"));
    assert!(file.len().is_err(), "a dead process's descriptors are closed");
}

#[test]
fn a_full_disk_takes_a_part_and_says_so() {
    let disk = SimDisk::new(1, Nature { capacity: Some(100), ..NO_FAULTS() });
    let file = disk.create(Path::new("/f")).unwrap();
    let error = write(&*file, &[1; 150], 0).unwrap_err();
    assert_eq!((error.kind(), file.len().unwrap()), (io::ErrorKind::StorageFull, 100));
    write(&*file, &[2; 100], 0).unwrap();
    assert_eq!(disk.create(Path::new("/g")).err().map(|e| e.kind()), Some(io::ErrorKind::StorageFull));
    file.set_len(10).unwrap();
    assert!(disk.create(Path::new("/g")).is_ok());
}
