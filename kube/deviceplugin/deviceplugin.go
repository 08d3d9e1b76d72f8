// Package deviceplugin offers a node's TPM to pods by the kubelet's device plugin API (v1beta1): the resource integrity.assay.dev/tpm, in several
// shares of the one device /dev/tpmrm0, whose kernel resource manager keeps users apart.
//
// It needs no privilege but the folder of the kubelet's sockets. Where there is no TPM it registers and offers nothing. It trusts the kubelet and the
// kernel's list of devices; that a TPM is there proves nothing about the machine. Whoever may ask for the resource gets the TPM: RBAC and quotas
// on pods decide that.
package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/assay-project/assay/kube/v1alpha1"
)

// Config is what the plugin goes by; the zero value of each member is its default.
type Config struct {
	// Folder holds the kubelet's sockets, /var/lib/kubelet/device-plugins.
	Folder string
	// Class is where the kernel lists TPMs with a resource manager, /sys/class/tpmrm; containers see it too.
	Class string
	// Device is the name of the device there and under /dev, tpmrm0.
	Device string
	// Shares is how many pods may hold it at once, 8.
	Shares int
	// Poll is the time between two looks at the device and at the kubelet's socket, 5 s.
	Poll time.Duration
	Log  *slog.Logger
}

const (
	endpoint        = "assay-tpm.sock"
	kubeletSocket   = "kubelet.sock"
	registerTimeout = 5 * time.Second
)

// Plugin offers one TPM.
type Plugin struct {
	v1beta1.UnimplementedDevicePluginServer
	cfg Config
}

// New fills the defaults.
func New(cfg Config) *Plugin {
	if cfg.Folder == "" {
		cfg.Folder = v1beta1.DevicePluginPath
	}
	if cfg.Class == "" {
		cfg.Class = "/sys/class/tpmrm"
	}
	if cfg.Device == "" {
		cfg.Device = "tpmrm0"
	}
	if cfg.Shares == 0 {
		cfg.Shares = 8
	}
	if cfg.Poll == 0 {
		cfg.Poll = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Plugin{cfg: cfg}
}

// Run serves until ctx ends. A kubelet that starts removes all sockets of plugins: then the plugin serves and registers anew.
func (p *Plugin) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := p.serve(ctx); err != nil && ctx.Err() == nil {
			p.cfg.Log.Warn("device plugin", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(p.cfg.Poll):
		}
	}
	return nil
}

// errKubeletRestarted ends a serving.
var errKubeletRestarted = errors.New("the kubelet started anew")

func (p *Plugin) serve(ctx context.Context) error {
	path := filepath.Join(p.cfg.Folder, endpoint)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the former socket: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	kubelet, err := os.Stat(filepath.Join(p.cfg.Folder, kubeletSocket))
	if err != nil {
		return errors.Join(fmt.Errorf("find the kubelet: %w", err), listener.Close())
	}
	server := grpc.NewServer()
	v1beta1.RegisterDevicePluginServer(server, p)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(listener) })
	group.Go(func() error {
		<-ctx.Done()
		server.Stop()
		return nil
	})
	group.Go(func() error {
		if err := p.register(ctx); err != nil {
			return err
		}
		p.cfg.Log.Info("registered", "resource", v1alpha1.ResourceTPM, "present", p.present(), "shares", p.cfg.Shares)
		return p.watch(ctx, path, kubelet)
	})
	return group.Wait()
}

// watch ends when our socket or the kubelet's is another one.
func (p *Plugin) watch(ctx context.Context, path string, kubelet fs.FileInfo) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(p.cfg.Poll):
		}
		_, err := os.Lstat(path)
		now, kubeletErr := os.Stat(filepath.Join(p.cfg.Folder, kubeletSocket))
		if err != nil || kubeletErr != nil || !os.SameFile(now, kubelet) {
			return errKubeletRestarted
		}
	}
}

func (p *Plugin) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+filepath.Join(p.cfg.Folder, kubeletSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("dial the kubelet: %w", err)
	}
	defer conn.Close()
	_, err = v1beta1.NewRegistrationClient(conn).Register(ctx, &v1beta1.RegisterRequest{Version: v1beta1.Version, Endpoint: endpoint, ResourceName: v1alpha1.ResourceTPM})
	if err != nil {
		return fmt.Errorf("register with the kubelet: %w", err)
	}
	return nil
}

// present reports whether the kernel has the TPM.
func (p *Plugin) present() bool {
	_, err := os.Stat(filepath.Join(p.cfg.Class, p.cfg.Device))
	return err == nil
}

// devices are the shares; none where there is no TPM.
func (p *Plugin) devices() []*v1beta1.Device {
	if !p.present() {
		return nil
	}
	list := make([]*v1beta1.Device, p.cfg.Shares)
	for i := range list {
		list[i] = &v1beta1.Device{ID: fmt.Sprintf("%s-%d", p.cfg.Device, i), Health: v1beta1.Healthy}
	}
	return list
}

// GetDevicePluginOptions implements the kubelet's API: nothing special is needed.
func (p *Plugin) GetDevicePluginOptions(context.Context, *v1beta1.Empty) (*v1beta1.DevicePluginOptions, error) {
	return &v1beta1.DevicePluginOptions{}, nil
}

// ListAndWatch implements the kubelet's API: the shares now, and again when the TPM comes or goes.
func (p *Plugin) ListAndWatch(_ *v1beta1.Empty, stream grpc.ServerStreamingServer[v1beta1.ListAndWatchResponse]) error {
	said := -1
	for {
		if list := p.devices(); len(list) != said {
			if err := stream.Send(&v1beta1.ListAndWatchResponse{Devices: list}); err != nil {
				return err
			}
			said = len(list)
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-time.After(p.cfg.Poll):
		}
	}
}

// Allocate implements the kubelet's API: every share is the same device, readable and writable.
func (p *Plugin) Allocate(_ context.Context, r *v1beta1.AllocateRequest) (*v1beta1.AllocateResponse, error) {
	answer := &v1beta1.AllocateResponse{}
	path := "/dev/" + p.cfg.Device
	for range r.ContainerRequests {
		answer.ContainerResponses = append(answer.ContainerResponses, &v1beta1.ContainerAllocateResponse{
			Devices: []*v1beta1.DeviceSpec{{ContainerPath: path, HostPath: path, Permissions: "rw"}},
		})
	}
	return answer, nil
}
