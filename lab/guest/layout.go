package guest

// Where things lie in a lab machine. The host writes these files when it makes the root file system.
const (
	// PolicyPath is the IMA policy; the kernel records it under this name, because it is loaded after the switch to the root.
	PolicyPath = "/etc/ima/ima-policy"
	// KeyPath holds the key of the exec service, in hex.
	KeyPath = "/etc/lab/key"
	// ServicesPath holds the services, a JSON list of Service.
	ServicesPath = "/etc/lab/services.json"
	// CardsPath holds the further network cards, a JSON list of Card; there may be none.
	CardsPath = "/etc/lab/cards.json"
	// ModulesPath lists the kernel modules that are loaded after the switch, one path a line, in order.
	ModulesPath = "/etc/lab/modules"
	// InitPath is the init on the root file system: the lab's own, or systemd.
	InitPath = "/sbin/init"
	// ServerPath is where the lab's program lies in a machine whose init is systemd.
	ServerPath = "/usr/lib/assay-lab/server"
	// InitramfsModules is the same list as ModulesPath for those that reach the disk, inside the initramfs.
	InitramfsModules = "/modules/order"
	// FatalMark begins the console line with which an init gives up.
	FatalMark = "lab init cannot go on"
	// RootDevice is the disk with the root file system.
	RootDevice = "/dev/vda"
)

// A machine has two network cards, told apart by their addresses: one is the machine's own and may be cut, the other belongs to the lab's
// exec service alone, so that a cut machine can still be looked into.
const (
	MachineMAC = "52:54:00:61:73:01"
	ControlMAC = "52:54:00:61:73:02"
	// MachineAddr and ControlAddr are in networks that QEMU's user mode makes for this machine only.
	MachineAddr = "10.0.2.15"
	ControlAddr = "10.0.3.15"
	// Gateway is the host's loopback as the machine sees it.
	Gateway = "10.0.2.2"
	// ExecPort is where the exec service listens, on ControlAddr.
	ExecPort = 7070
)

// A Card is a network card beyond the machine's own two.
type Card struct {
	MAC     string `json:"mac"`
	Address string `json:"address,omitempty"` // with the length of its network; without one the card stays down
	Gateway string `json:"gateway,omitempty"` // the default route instead of Gateway
}

// A Service is a program that the machine's init keeps running: it is started again after it ends, with a back-off that doubles from half a
// second to 30 s and starts afresh once the program has lived for 10 s.
type Service struct {
	Name string   `json:"name"`
	Args []string `json:"args"`          // the program's absolute path first
	Env  []string `json:"env,omitempty"` // KEY=value, added to PATH and HOME
	Log  string   `json:"log,omitempty"` // file that gets stdout and stderr, appended; /var/log/NAME.log by default
	User string   `json:"user,omitempty"`
	// AfterNetwork holds the service back until the network is up.
	AfterNetwork bool `json:"afterNetwork,omitempty"`
}
