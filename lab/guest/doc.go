// Package guest is the inside of a lab machine: what its PID 1 does from the first instruction of userspace on, and the exec service through
// which the host runs commands and moves files. The host's half of that service, Client, is here too, so that both ends of the protocol
// stand side by side.
//
// The order of events is the package's promise. In the initramfs the init mounts the pseudo filesystems, loads the modules that reach the
// disk, switches to the ext4 root and loads the IMA policy by its path, before anything is executed from that root (Boot). Only then does it
// become /sbin/init (Init), whose child (Serve) loads the remaining modules, raises the network and runs the services.
//
// It trusts the host: whoever holds the machine's key is root inside. What the machine proves about itself is not its business; that is the
// agent's, which runs here as a service like any other.
package guest
