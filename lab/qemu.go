package lab

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/assay-project/assay/lab/guest"
)

const kvmDevice = "/dev/kvm"

// The names under which the machine's parts go in QMP commands.
const machineNet = "net0"

// Names of files in a machine's folder.
const (
	specFile      = "machine.json"
	runFile       = "run.json"
	treeDir       = "root"
	diskFile      = "disk.img"
	initramfsFile = "initramfs.gz"
	varsFile      = "vars.fd"
	tpmDir        = "tpm"
	caDir         = "ca"
	consoleFile   = "console.log"
	qemuLog       = "qemu.log"
	supervisorLog = "supervisor.log"
)

// A spec is what a machine is: written once by Up, read by the supervisor and by Attach.
type spec struct {
	Firmware  Firmware `json:"firmware"`
	MemoryMiB int      `json:"memoryMiB"`
	Kernel    string   `json:"kernel"` // path of the image
	Release   string   `json:"release"`
	Append    string   `json:"append"` // the kernel's command line
	Forward   []Port   `json:"forward"`
	ExecPort  int      `json:"execPort"` // on the host's loopback
	Taps      []plug   `json:"taps,omitempty"`
	Vendor    string   `json:"vendor"` // folder of the CA of the TPM's certificates
	Key       string   `json:"key"`    // of the exec service, hex; the file is private to its owner
}

// commandLine is what the kernel is told. ima_policy=tcb has the kernel record the load of our own policy, which then replaces it.
func commandLine(cfg Config) string {
	args := []string{"console=ttyS0", "quiet", "panic=-1", "ima_policy=tcb", "ima_hash=sha256", "ima_template=" + cfg.IMATemplate}
	if cfg.System == Debian {
		args = append(args, "net.ifnames=0") // a card that is being raised cannot be renamed
	}
	return strings.Join(append(args, cfg.KernelArgs...), " ")
}

// firstExtraFile is the descriptor that exec.Cmd gives the first of its ExtraFiles; the taps are QEMU's.
const firstExtraFile = 3

// qemuArgs is QEMU's command line. Paths of the machine's folder are relative to it: a socket's path must be short. QMP is on QEMU's own
// stdin and stdout, so nobody but the supervisor can hold it.
func qemuArgs(s spec, accelerator []string, tpmSocket string) []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,smm=off", "-smp", "2", "-m", fmt.Sprint(s.MemoryMiB),
		"-chardev", "stdio,id=qmp,signal=off", "-mon", "chardev=qmp,mode=control",
		"-chardev", "file,id=console,path=" + consoleFile + ",append=on", "-serial", "chardev:console",
		"-kernel", s.Kernel, "-initrd", initramfsFile, "-append", s.Append,
		"-chardev", "socket,id=tpm,path=" + tpmSocket, "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0",
		// The host's page cache outlives a killed QEMU, so a power cut of the machine loses what its kernel had not yet written and no more.
		"-drive", "if=none,id=root,format=raw,cache=unsafe,file=" + diskFile, "-device", "virtio-blk-pci,drive=root",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
		"-netdev", machineNetdev(s.Forward), "-device", "virtio-net-pci,netdev=" + machineNet + ",romfile=,mac=" + guest.MachineMAC,
		"-netdev", controlNetdev(s.ExecPort), "-device", "virtio-net-pci,netdev=control,romfile=,mac=" + guest.ControlMAC,
	}
	for i, tap := range s.Taps {
		args = append(args, "-netdev", fmt.Sprintf("tap,id=tap%d,fd=%d", i, firstExtraFile+i),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=tap%d,romfile=,mac=%s", i, tap.MAC))
	}
	if s.Firmware == OVMF {
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+ovmfCode, "-drive", "if=pflash,format=raw,file="+varsFile)
	}
	return append(args, accelerator...)
}

func machineNetdev(forward []Port) string {
	dev := "user,id=" + machineNet + ",ipv6=off,net=10.0.2.0/24"
	for _, p := range forward {
		dev += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-%s:%d", p.Host, guest.MachineAddr, p.Guest)
	}
	return dev
}

// controlNetdev leads to the exec service and nowhere else.
func controlNetdev(port int) string {
	return fmt.Sprintf("user,id=control,ipv6=off,net=10.0.3.0/24,restrict=on,hostfwd=tcp:127.0.0.1:%d-%s:%d", port, guest.ControlAddr, guest.ExecPort)
}

// accelerator chooses between KVM and emulation. The device alone is no proof: there are hosts that show it and cannot run a machine.
func accelerator() ([]string, error) {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return nil, fmt.Errorf("look at the CPU: %w", err)
	}
	defer f.Close()
	virtualises, err := cpuVirtualises(f)
	if err != nil {
		return nil, fmt.Errorf("look at the CPU: %w", err)
	}
	if virtualises {
		if dev, err := os.OpenFile(kvmDevice, os.O_RDWR, 0); err == nil {
			dev.Close()
			return []string{"-accel", "kvm", "-cpu", "host"}, nil
		}
	}
	// Emulated cmpxchg16b makes the guest's allocator fail now and then (QEMU 7.2).
	return []string{"-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,-cx16"}, nil
}

// cpuVirtualises looks for vmx or svm among the flags of a /proc/cpuinfo.
func cpuVirtualises(cpuinfo io.Reader) (bool, error) {
	lines := bufio.NewScanner(cpuinfo)
	for lines.Scan() {
		name, flags, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for flag := range strings.FieldsSeq(flags) {
			if flag == "vmx" || flag == "svm" {
				return true, nil
			}
		}
	}
	return false, lines.Err()
}
