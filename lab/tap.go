package lab

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/lab/guest"
)

// A Tap is a network card of the machine whose other end is a tap device in a network namespace of the host. Making and opening one needs root.
type Tap struct {
	// Name of the device. One that is not there is made, and goes with the machine; the host's end of it is the caller's to configure.
	Name string `json:"name"`
	// Namespace is the path of a network namespace, such as /run/netns/NAME or /proc/PID/ns/net; empty means that of this process.
	Namespace string `json:"namespace,omitempty"`
	// Address of the machine with the length of its network, such as 10.98.0.2/24; empty leaves the card down.
	Address string `json:"address,omitempty"`
	// Gateway is the machine's default route instead of the host's loopback; may be empty.
	Gateway string `json:"gateway,omitempty"`
}

func (t Tap) check() error {
	var mistakes []error
	if t.Name == "" || len(t.Name) >= unix.IFNAMSIZ || strings.ContainsAny(t.Name, "/ \n") {
		mistakes = append(mistakes, fmt.Errorf("want a device name of 1 to %d bytes", unix.IFNAMSIZ-1))
	}
	if t.Address != "" {
		if p, err := netip.ParsePrefix(t.Address); err != nil || !p.Addr().Is4() {
			mistakes = append(mistakes, fmt.Errorf("address %q: want one like 10.98.0.2/24", t.Address))
		}
	}
	if t.Gateway != "" {
		if a, err := netip.ParseAddr(t.Gateway); err != nil || !a.Is4() {
			mistakes = append(mistakes, fmt.Errorf("gateway %q: want one like 10.98.0.1", t.Gateway))
		}
	}
	return errors.Join(mistakes...)
}

// A plug is a Tap with the card's hardware address, by which the machine knows it.
type plug struct {
	Tap
	MAC string `json:"mac"`
}

// plugTaps gives each card an address of its own: several machines may meet on one bridge.
func plugTaps(taps []Tap) []plug {
	var plugs []plug
	for _, t := range taps {
		mac := net.HardwareAddr{0x52, 0x54, 0x00, 0, 0, 0}
		rand.Read(mac[3:])
		mac[3] |= 0x80 // never one of the machine's other cards
		plugs = append(plugs, plug{Tap: t, MAC: mac.String()})
	}
	return plugs
}

// cards is what the machine is told of its taps.
func cards(plugs []plug) []guest.Card {
	var list []guest.Card
	for _, p := range plugs {
		list = append(list, guest.Card{MAC: p.MAC, Address: p.Address, Gateway: p.Gateway})
	}
	return list
}

// openTap opens a tap device inside its namespace; the descriptor works from anywhere.
func openTap(t Tap) (*os.File, error) {
	var tap *os.File
	err := inNamespace(t.Namespace, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		tap = os.NewFile(uintptr(fd), t.Name)
		req, err := unix.NewIfreq(t.Name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	})
	if err != nil {
		if tap != nil {
			tap.Close()
		}
		return nil, fmt.Errorf("tap %s of namespace %q: %w", t.Name, t.Namespace, err)
	}
	return tap, nil
}

// inNamespace runs what in a network namespace, on a thread that ends with it: no other goroutine ever finds itself there.
func inNamespace(path string, what func() error) error {
	if path == "" {
		return what()
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		result <- func() error {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter: %w", err)
			}
			return what()
		}()
	}()
	return <-result
}
