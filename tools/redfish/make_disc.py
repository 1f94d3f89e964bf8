"""Makes a disc with a kernel and an initrd, whose isolinux menu starts them, with somebody else's writer of ISO 9660.

make_disc.py KERNEL INITRD DISC
"""

import io
import sys

import pycdlib

MENU = b"""default own
label own
 kernel /boot/vmlinuz
 append initrd=/boot/initrd.img console=ttyS0 quiet panic=-1
"""

kernel, initrd, disc = sys.argv[1:]
iso = pycdlib.PyCdlib()
iso.new(interchange_level=3, rock_ridge="1.09", joliet=3, vol_ident="OWN")
iso.add_directory("/ISOLINUX", rr_name="isolinux", joliet_path="/isolinux")
iso.add_directory("/BOOT", rr_name="boot", joliet_path="/boot")
menu = io.BytesIO(MENU)
iso.add_fp(menu, len(MENU), "/ISOLINUX/ISOLINUX.CFG;1", rr_name="isolinux.cfg", joliet_path="/isolinux/isolinux.cfg")
iso.add_file(kernel, "/BOOT/VMLINUZ.;1", rr_name="vmlinuz", joliet_path="/boot/vmlinuz")
iso.add_file(initrd, "/BOOT/INITRD.IMG;1", rr_name="initrd.img", joliet_path="/boot/initrd.img")
iso.write(disc)
iso.close()
