// SPDX-License-Identifier: Apache-2.0
//! What the client promises without a kernel module: shapes are checked, errors
//! are sentences, and a file elsewhere is never asked. The ioctls themselves are
//! tested in the guest.

use std::path::Path;
use vexfs_client::memory::MemoryVolume;
use vexfs_client::{
    bf16, f16, Access, BuildOptions, Container, CreateOptions, ElementType, Errno, Error,
    IndexKind, Metric, Rows, SearchOptions, Select, Vectors, Volume,
};

fn container() -> Container {
    MemoryVolume::new()
        .create(Path::new("/v/c"), &CreateOptions::new(2, Metric::L2))
        .unwrap()
}

#[test]
fn a_file_on_another_filesystem_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain");
    std::fs::write(&path, b"kept").unwrap();
    let error = Container::open(&path, Access::Read).unwrap_err();
    assert!(matches!(error, Error::NotVexfs { .. }), "{error}");
    let error = Container::create(&path, &CreateOptions::new(2, Metric::L2)).unwrap_err();
    assert!(matches!(error, Error::NotVexfs { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"kept");
}

#[test]
fn a_failed_create_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    Container::create(&path, &CreateOptions::new(2, Metric::L2)).unwrap_err();
    assert!(!path.exists());
}

#[test]
fn a_missing_file_says_how_to_make_one() {
    let error = Container::open("/nonexistent/x", Access::Read).unwrap_err();
    assert!(error.to_string().contains("vexfs create"), "{error}");
}

#[test]
fn rows_are_found_by_key_and_by_number() {
    let mut c = container();
    let rows = Rows::new(&[1.0, 2.0, 3.0, 4.0])
        .with_keys(&[70, 80])
        .with_tags(&[1, 2]);
    assert_eq!(c.insert(&rows).unwrap().first_row, 0);
    let got = c.get(Select::Keys(&[80, 90])).unwrap();
    assert_eq!(got.found, 1);
    let row = got.row(0).unwrap();
    assert_eq!(
        (row.key, row.row, row.tags, row.vector),
        (80, 1, 2, Vectors::F32(&[3.0, 4.0]))
    );
    assert!(got.row(1).is_none() && got.row(2).is_none());
    let got = c.get(Select::Rows(&[0, 9])).unwrap();
    assert_eq!(got.row(0).unwrap().key, 70);
    assert!(got.row(1).is_none());
}

#[test]
fn an_upsert_replaces_and_a_second_insert_names_its_row() {
    let mut c = container();
    c.insert(&Rows::new(&[1.0, 1.0]).with_keys(&[5])).unwrap();
    let error = c
        .insert(&Rows::new(&[0.0, 0.0, 1.0, 1.0]).with_keys(&[6, 5]))
        .unwrap_err();
    assert_eq!(error.row(), Some(1));
    assert!(error.to_string().contains("use upsert"), "{error}");
    assert_eq!(c.stats().unwrap().live, 1);
    c.upsert(&Rows::new(&[2.0, 2.0]).with_keys(&[5])).unwrap();
    assert_eq!(c.stats().unwrap().live, 1);
    let got = c.get(Select::Keys(&[5])).unwrap();
    assert_eq!(got.row(0).unwrap().vector, Vectors::F32(&[2.0, 2.0]));
}

#[test]
fn shapes_that_do_not_fit_are_refused_before_the_kernel_sees_them() {
    let mut c = container();
    for error in [
        c.insert(&Rows::new(&[1.0, 2.0, 3.0])).unwrap_err(),
        c.insert(&Rows::new(&[0.0; 0])).unwrap_err(),
        c.insert(&Rows::new(&[1.0, 2.0]).with_keys(&[1, 2]))
            .unwrap_err(),
        c.insert(&Rows::new(&[1.0, 2.0]).with_tags(&[]))
            .unwrap_err(),
        c.upsert(&Rows::new(&[1.0, 2.0])).unwrap_err(),
        c.search(&[1.0], &SearchOptions::new(1)).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Argument(_)), "{error}");
    }
}

#[test]
fn hits_stop_at_the_count_of_their_query() {
    let mut c = container();
    c.insert(&Rows::new(&[0.0, 0.0, 3.0, 4.0])).unwrap();
    let options = SearchOptions {
        radius: Some(1.0),
        ..SearchOptions::new(5)
    };
    let found = c.search(&[0.0, 0.0, 9.0, 9.0], &options).unwrap();
    assert_eq!(found.queries(), 2);
    assert_eq!(found.hits(0).map(|h| h.row).collect::<Vec<_>>(), [0]);
    assert_eq!(found.hits(1).len(), 0);
    assert_eq!(found.hits(2).len(), 0);
}

#[test]
fn deleted_rows_are_not_found_again() {
    let mut c = container();
    c.insert(&Rows::new(&[0.0, 0.0, 3.0, 4.0])).unwrap();
    assert_eq!(c.delete(Select::Rows(&[0]), false).unwrap(), 1);
    assert_eq!(c.delete(Select::Rows(&[0]), true).unwrap(), 0);
    let error = c.delete(Select::Rows(&[1, 0]), false).unwrap_err();
    assert_eq!(error.row(), Some(1));
    let found = c.search(&[0.0, 0.0], &SearchOptions::new(5)).unwrap();
    assert_eq!(
        found
            .hits(0)
            .map(|h| (h.row, h.distance))
            .collect::<Vec<_>>(),
        [(1, 25.0)]
    );
}

#[test]
fn exact_search_needs_no_index_and_others_say_what_is_missing() {
    let mut c = container();
    c.build_index(IndexKind::Exact, &BuildOptions::default())
        .unwrap();
    let error = c
        .build_index(IndexKind::Hnsw, &BuildOptions::default())
        .unwrap_err();
    assert!(
        error.to_string().contains("no index of that kind yet"),
        "{error}"
    );
    let error = c.drop_index(IndexKind::Hnsw).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NOENT));
    let error = c.index_stats(IndexKind::Hnsw, true).unwrap_err();
    assert!(
        error.to_string().contains("it has no index of that kind"),
        "{error}"
    );
}

#[test]
fn every_element_type_goes_in_and_comes_out_as_itself() {
    let halves = [f16::from_f32(1.0), f16::from_f32(-0.5), f16::ZERO, f16::ONE];
    let brains = [
        bf16::from_f32(3.0),
        bf16::ZERO,
        bf16::ONE,
        bf16::from_f32(-8.0),
    ];
    let rows = [
        Vectors::F32(&[1.0, -0.5, 0.25, 7.0]),
        Vectors::F16(&halves),
        Vectors::Bf16(&brains),
        Vectors::I8(&[-128, 127, 0, 1]),
        Vectors::U8(&[255, 0, 3, 4]),
        Vectors::Binary(&[0b01, 0b10]),
    ];
    let volume = MemoryVolume::new();
    for vectors in rows {
        let element_type = vectors.element_type();
        let options = CreateOptions {
            element_type,
            ..CreateOptions::new(2, Metric::L2)
        };
        let mut c = volume
            .create(Path::new(element_type.name()), &options)
            .unwrap();
        assert_eq!(c.element_type(), element_type);
        assert_eq!(c.insert(&Rows::new(vectors)).unwrap().count, 2);
        let got = c.get(Select::Rows(&[1, 0])).unwrap();
        assert_eq!(Some(got.row(0).unwrap().vector), vectors.row(2, 1));
        let found = c.search(vectors, &SearchOptions::new(1)).unwrap();
        assert_eq!(
            found.hits(1).map(|h| (h.row, h.distance)).next(),
            Some((1, 0.0))
        );
        // Another type is not converted behind the caller's back.
        let other = match element_type {
            ElementType::F32 => Vectors::I8(&[1, 2]),
            _ => Vectors::F32(&[1.0, 2.0]),
        };
        let error = c.insert(&Rows::new(other)).unwrap_err();
        assert!(error.to_string().contains("convert them"), "{error}");
        c.search(other, &SearchOptions::new(1)).unwrap_err();
    }
}

#[test]
fn rows_that_no_container_takes_are_named() {
    let mut options = CreateOptions::new(9, Metric::Hamming);
    let volume = MemoryVolume::new();
    let error = volume.create(Path::new("/f"), &options).unwrap_err();
    assert!(
        error.to_string().contains("binary elements only"),
        "{error}"
    );
    options.element_type = ElementType::Binary;
    let mut c = volume.create(Path::new("/b"), &options).unwrap();
    let stray = Vectors::Binary(&[0, 1, 0, 0b10]);
    let error = c.insert(&Rows::new(stray)).unwrap_err();
    assert_eq!((error.errno(), error.row()), (Some(Errno::INVAL), Some(1)));
    c.search(stray, &SearchOptions::new(1)).unwrap_err();
    let rows = Vectors::Binary(&[0, 0, 0xff, 1]);
    c.insert(&Rows::new(rows)).unwrap();
    let found = c.search(rows, &SearchOptions::new(2)).unwrap();
    let distances: Vec<_> = found.hits(0).map(|h| h.distance).collect();
    assert_eq!(distances, [0.0, 9.0]);
}
