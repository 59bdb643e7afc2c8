// Command csi-registrar does what node-driver-registrar does, which is not to be had as a Go module: it asks a CSI driver for its name,
// and registers it with the kubelet over the plugin registration protocol. When it ends, its socket goes, and with it the registration.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type registrar struct {
	registerapi.UnimplementedRegistrationServer
	info *registerapi.PluginInfo
}

func (r registrar) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	log.Printf("Received GetInfo call")
	return r.info, nil
}

func (registrar) NotifyRegistrationStatus(_ context.Context, status *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	log.Printf("Received NotifyRegistrationStatus call: %v", status)
	if !status.PluginRegistered {
		log.Fatalf("Registration process failed with error: %s, restarting registration container.", status.Error)
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}

func main() {
	driver := flag.String("csi-address", "/run/csi/socket", "the driver's socket")
	path := flag.String("kubelet-registration-path", "", "the driver's socket as the kubelet sees it")
	registry := flag.String("plugin-registration-path", "/registration", "the kubelet's directory of registration sockets")
	version := flag.Bool("version", false, "say what this is")
	flag.Parse()
	if *version {
		fmt.Println("csi-registrar of ebbtide's tests")
		return
	}

	conn, err := grpc.NewClient("unix://"+*driver, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatalf("connecting to %s: %v", *driver, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	info, err := csi.NewIdentityClient(conn).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		log.Fatalf("asking the driver at %s for its name: %v", *driver, err)
	}
	socket := filepath.Join(*registry, info.GetName()+"-reg.sock")
	// One of an earlier run.
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	registerapi.RegisterRegistrationServer(server, registrar{info: &registerapi.PluginInfo{
		Type: registerapi.CSIPlugin, Name: info.GetName(), Endpoint: *path, SupportedVersions: []string{"1.0.0"},
	}})
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-ended
		// The listener's end removes the socket.
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
