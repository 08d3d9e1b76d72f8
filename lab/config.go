package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-project/assay/deploy/ima"
	"github.com/assay-project/assay/lab/guest"
)

// Firmware is what runs in a machine before its kernel.
type Firmware string

// The firmwares.
const (
	// SeaBIOS starts fastest; the boot log covers little.
	SeaBIOS Firmware = "seabios"
	// OVMF is UEFI with measured boot: a crypto-agile TCG event log of the kernel, its command line and its initramfs.
	OVMF Firmware = "ovmf"
)

// System is what a machine runs once its kernel has started.
type System string

// The systems.
const (
	// Busybox is the lab's own init with busybox: a machine that is up in seconds and holds little beside what the caller brings.
	Busybox System = "busybox"
	// Debian is a small Debian of the host's own release whose PID 1 is systemd, which loads the IMA policy too. The lab's exec service is a unit
	// of it. Up needs some 40 MB of packages once.
	Debian System = "debian"
)

// Config says what machine to make. The zero value of each field but Dir is a sensible one.
type Config struct {
	// Dir is the machine's folder. It must not exist, or be empty; Down removes it.
	Dir string
	// Cache is the folder of kernel packages, shared by all machines; $XDG_CACHE_HOME/assay/lab by default.
	Cache string
	// Firmware is SeaBIOS by default.
	Firmware Firmware
	// System is Busybox by default.
	System System
	// MemoryMiB is 1024 by default.
	MemoryMiB int
	// DiskMiB is the free space that the root file system has beyond its content, 512 by default. The image is sparse.
	DiskMiB int
	// Vendor is the folder of the CA that endorses the machine's TPM, made at first use and kept by Down. Machines with the same folder have the
	// same vendor, as those of one data centre do; make them one after the other. By default a machine has a vendor of its own.
	Vendor string
	// Init is the path of a static assay-labinit; by default the file of that name beside the running program.
	Init string
	// Tree is a folder whose content is copied to the machine's root, Files are added to that. The lab's own files come on top of both;
	// busybox and its links fill what is missing.
	Tree  string
	Files []File
	// Modules are kernel modules that are loaded at each start, with what they depend on, beside those that every machine has.
	Modules []string
	// Taps are further network cards.
	Taps []Tap
	// Services are kept running by the machine's init.
	Services []guest.Service
	// IMAPolicy is installed as /etc/ima/ima-policy and loaded by path before anything of the root file system is executed (by
	// systemd, in a Debian, after itself). Nil means
	// deploy/ima's host.policy; an empty one that is not nil means none.
	IMAPolicy []byte
	// IMATemplate is ima-ng by default.
	IMATemplate string
	// KernelArgs are appended to the kernel's command line. Of two equal IMA parameters the kernel obeys the first, which is the lab's.
	KernelArgs []string
	// Forward are the machine's ports that the host's loopback reaches.
	Forward []Port
	// Supervisor is the command that becomes the machine's supervisor; the folder is appended. It must end in a call of Supervise or
	// RunSupervisor. By default it is this program with the arguments `lab supervise`.
	Supervisor []string
	// Progress is told what is being done, for people; may be nil.
	Progress func(string)

	mutePatience time.Duration // for tests; the constant of that name by default
}

// A File goes to the root file system of a machine: a copy of the host's file Source, else a symbolic link to Link, else Data.
type File struct {
	Path   string // absolute, in the machine
	Mode   fs.FileMode
	Source string
	Link   string
	Data   []byte
}

// A Port of the machine that is reached on the host's 127.0.0.1. Host 0 means a free one, chosen once and kept over reboots and power cuts.
type Port struct {
	Guest int `json:"guest"`
	Host  int `json:"host"`
}

const (
	defaultMemoryMiB = 1024
	defaultDiskMiB   = 512
	defaultTemplate  = "ima-ng"
	initName         = "assay-labinit"
)

// withDefaults fills the empty fields and reports every mistake at once.
func (c Config) withDefaults() (Config, error) {
	var mistakes []error
	mistake := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(format, args...)) }
	if c.Dir == "" {
		mistake("no folder for the machine")
	} else if abs, err := filepath.Abs(c.Dir); err != nil {
		mistake("folder %s: %w", c.Dir, err)
	} else {
		c.Dir = abs
	}
	if c.Vendor == "" {
		c.Vendor = filepath.Join(c.Dir, caDir)
	} else if abs, err := filepath.Abs(c.Vendor); err != nil {
		mistake("vendor's folder %s: %w", c.Vendor, err)
	} else {
		c.Vendor = abs
	}
	if c.Firmware == "" {
		c.Firmware = SeaBIOS
	}
	if c.Firmware != SeaBIOS && c.Firmware != OVMF {
		mistake("firmware %q: want %s or %s", c.Firmware, SeaBIOS, OVMF)
	}
	if c.System == "" {
		c.System = Busybox
	}
	if c.System != Busybox && c.System != Debian {
		mistake("system %q: want %s or %s", c.System, Busybox, Debian)
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = defaultMemoryMiB
	}
	if c.MemoryMiB < 256 {
		mistake("memory of %d MiB: the kernel needs 256", c.MemoryMiB)
	}
	if c.DiskMiB == 0 {
		c.DiskMiB = defaultDiskMiB
	}
	if c.IMATemplate == "" {
		c.IMATemplate = defaultTemplate
	}
	if c.IMAPolicy == nil {
		c.IMAPolicy = ima.HostPolicy()
	}
	if c.mutePatience == 0 {
		c.mutePatience = mutePatience
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	for _, f := range c.Files {
		if !filepath.IsAbs(f.Path) || filepath.Clean(f.Path) != f.Path {
			mistake("file %q: want an absolute, clean path", f.Path)
		}
	}
	for _, p := range c.Forward {
		if p.Guest <= 0 || p.Guest > 65535 || p.Host < 0 || p.Host > 65535 {
			mistake("forwarded port %d to %d: out of range", p.Host, p.Guest)
		}
	}
	for _, tap := range c.Taps {
		if err := tap.check(); err != nil {
			mistake("tap %q: %w", tap.Name, err)
		}
	}
	for _, arg := range c.KernelArgs {
		if strings.ContainsAny(arg, " \n\"") {
			mistake("kernel argument %q: blanks and quotes are not carried over", arg)
		}
	}
	c, err := c.withPrograms()
	return c, errors.Join(errors.Join(mistakes...), err)
}

// withPrograms finds the lab's own programs and the cache.
func (c Config) withPrograms() (Config, error) {
	self, err := os.Executable()
	if err != nil {
		return c, fmt.Errorf("find this program: %w", err)
	}
	if len(c.Supervisor) == 0 {
		c.Supervisor = append([]string{self}, superviseArgs...)
	}
	if c.Init == "" {
		c.Init = filepath.Join(filepath.Dir(self), initName)
	}
	if _, err := os.Stat(c.Init); err != nil {
		return c, fmt.Errorf("the machine's init: %w (build it with CGO_ENABLED=0 go build ./cmd/%s)", err, initName)
	}
	if c.Cache == "" {
		c.Cache, err = cacheFolder()
	}
	return c, err
}

func cacheFolder() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return filepath.Join(base, "assay", "lab"), nil
}

// Folder is where a named machine of the command line program lies, below the user's cache folder; with an empty name, where all of them do.
func Folder(name string) (string, error) {
	if name != filepath.Base(name) && name != "" || strings.HasPrefix(name, ".") {
		return "", fmt.Errorf("machine name %q: want a plain name", name)
	}
	cache, err := cacheFolder()
	return filepath.Join(cache, "machines", name), err
}
