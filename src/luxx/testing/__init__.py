"""What tests of Luxx and of its adapters need: scripted parts, contract suites, a loopback upstream."""
