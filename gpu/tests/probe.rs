//! The probe on whatever machine this is.

use tenfour_gpu::{LOOKED_FOR, probe};

#[test]
fn it_answers_on_any_machine_and_twice_the_same() {
    let first = probe();
    println!("{first}");
    let told = first.to_string();
    match &first.driver {
        Ok((major, _)) => assert!(*major >= 11, "{told}"),
        Err(reason) => {
            assert!(first.devices.is_empty());
            assert!(!reason.is_empty() && told.contains(reason.as_str()));
        }
    }
    assert!(told.contains(LOOKED_FOR[1]) && told.contains(&format!("devices: {}", first.devices.len())));
    assert_eq!(probe(), first);
}
