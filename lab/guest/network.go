package guest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cardPatience = 30 * time.Second

// RaiseNetwork gives the machine its loopback, its two addresses, those of further cards, and its default route.
func RaiseNetwork(further []Card) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("raise network: %w", err)
	}
	defer unix.Close(fd)
	if err := raise(fd, "lo"); err != nil {
		return err
	}
	gateway := Gateway
	for _, c := range append([]Card{{MAC: MachineMAC, Address: MachineAddr + "/24"}, {MAC: ControlMAC, Address: ControlAddr + "/24"}}, further...) {
		if err := raiseCard(fd, c); err != nil {
			return err
		}
		if c.Gateway != "" {
			gateway = c.Gateway
		}
	}
	to, err := netip.ParseAddr(gateway)
	if err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return addDefaultRoute(to)
}

func raiseCard(fd int, c Card) error {
	if c.Address == "" {
		return nil
	}
	addr, err := netip.ParsePrefix(c.Address)
	if err != nil {
		return fmt.Errorf("card %s: %w", c.MAC, err)
	}
	name, err := cardByMAC(c.MAC)
	if err != nil {
		return err
	}
	if err := setAddress(fd, name, addr); err != nil {
		return err
	}
	return raise(fd, name)
}

// readCards reads the further cards of the file at path; none if there is no such file.
func readCards(path string) ([]Card, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read cards: %w", err)
	}
	var cards []Card
	if err := json.Unmarshal(data, &cards); err != nil {
		return nil, fmt.Errorf("read cards of %s: %w", path, err)
	}
	return cards, nil
}

// cardByMAC finds a card's name; its driver may need a moment.
func cardByMAC(mac string) (string, error) {
	for end := time.Now().Add(cardPatience); ; time.Sleep(20 * time.Millisecond) {
		cards, err := net.Interfaces()
		if err != nil {
			return "", fmt.Errorf("list network cards: %w", err)
		}
		for _, card := range cards {
			if strings.EqualFold(card.HardwareAddr.String(), mac) {
				return card.Name, nil
			}
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("no network card with the address %s", mac)
		}
	}
}

func raise(fd int, card string) error {
	req, err := unix.NewIfreq(card)
	if err != nil {
		return fmt.Errorf("raise %s: %w", card, err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("raise %s: %w", card, err)
	}
	return nil
}

func setAddress(fd int, card string, addr netip.Prefix) error {
	for _, set := range []struct {
		ioctl uint
		value []byte
	}{{unix.SIOCSIFADDR, addr.Addr().AsSlice()}, {unix.SIOCSIFNETMASK, net.CIDRMask(addr.Bits(), 32)}} {
		req, err := unix.NewIfreq(card)
		if err != nil {
			return fmt.Errorf("address of %s: %w", card, err)
		}
		if err := req.SetInet4Addr(set.value); err != nil {
			return fmt.Errorf("address of %s: %w", card, err)
		}
		if err := unix.IoctlIfreq(fd, set.ioctl, req); err != nil {
			return fmt.Errorf("address of %s: %w", card, err)
		}
	}
	return nil
}

// addDefaultRoute sends RTM_NEWROUTE (rtnetlink(7)); the older ioctl would need a C struct with a pointer in it.
func addDefaultRoute(gateway netip.Addr) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, newRouteMessage(gateway), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	// The acknowledgement is an NLMSG_ERROR whose number is 0.
	if n < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("default route: answer of %d bytes", n)
	}
	errno := int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:]))
	if errno != 0 && unix.Errno(-errno) != unix.EEXIST {
		return fmt.Errorf("default route: %w", unix.Errno(-errno))
	}
	return nil
}

func newRouteMessage(gateway netip.Addr) []byte {
	n := binary.NativeEndian
	body := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST}
	body = n.AppendUint32(body, 0) // rtm_flags
	body = n.AppendUint16(body, unix.SizeofRtAttr+4)
	body = n.AppendUint16(body, unix.RTA_GATEWAY)
	body = append(body, gateway.AsSlice()...)
	head := n.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	head = n.AppendUint16(head, unix.RTM_NEWROUTE)
	head = n.AppendUint16(head, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	head = n.AppendUint32(head, 1) // sequence
	head = n.AppendUint32(head, 0) // port
	return append(head, body...)
}
