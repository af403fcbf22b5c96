/*
 * The test guest: it counts, in RAM and on its disks, and finds out by itself whether the two agree.
 *
 * A multiboot kernel without libc, started by `qemu-system-x86_64 -kernel` (see build.sh). Every
 * iteration raises the counter by one, dirties RAM, writes the counter to every disk and reads it
 * back. Before it writes it checks that RAM and disks are exactly at the same iteration. As all of
 * a VM's state (CPU, devices, RAM, disks) belongs to one instant in a good snapshot, a restored
 * guest simply goes on, and there is no state that a stop in mid-iteration would excuse. Anything
 * else is a torn snapshot, and the guest says so on its serial line (COM1):
 *
 *   boot counter=N disks=D slots=S     once, on a cold boot; N is what the first disk held
 *   tick N                             every `tick` iterations
 *   TORN ram=N disk=M unit=U at=PLACE  a disk is older or newer than RAM
 *   TORN page=P want=N got=M           a page of RAM is older or newer than the rest of RAM
 *   FATAL ...                          no disk, or a disk that reports an error; the guest halts
 *
 * At most 64 TORN lines are printed.
 *
 * Disk layout (IDE, programmed I/O, so that the guest needs neither PCI nor interrupts from disks):
 *   sector 2048             the fixed sector: the counter as little-endian u64, repeated
 *   sector 4096 + 8 * slot  a slot of 8 sectors, all filled with the counter that was written to it;
 *                           iteration N writes slot N % S, so the disk carries a history of S steps
 *
 * Options on the kernel command line (`-append`), all decimal:
 *   window=MIB  RAM from 16 MiB upwards that is counted through (default 32)
 *   pages=N     pages of it written in every iteration (default 32)
 *   slots=N     at most so many slots (default 4096; fewer on a small disk)
 *   tick=N      iterations between two tick lines (default 20)
 *   hz=N        iterations per second, 19 to 1000; 0 is as fast as it goes (default 200)
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

enum {
    COM1 = 0x3f8,
    SECTOR_WORDS = 128, /* 32-bit words in a sector */
    FIXED_SECTOR = 2048,
    SLOT_BASE = 4096,
    SLOT_SECTORS = 8,
    WINDOW_START = 16 << 20,
    PAGE_WORDS = 1024,
    MAX_TORN_LINES = 64,
    PIT_HZ = 1193182,
};

/* Multiboot header, entry, and the handler of the only interrupt there is (the timer). */
__asm__(
    ".section .multiboot, \"a\"\n"
    ".align 4\n"
    ".long 0x1badb002, 0, -0x1badb002\n"
    ".text\n"
    ".globl _start\n"
    "_start:\n"
    "  cli\n"
    "  cld\n"
    "  mov $stack_top, %esp\n"
    "  lgdt gdt_pointer\n"
    "  ljmp $8, $1f\n"
    "1: mov $16, %ax\n"
    "  mov %ax, %ds\n"
    "  mov %ax, %es\n"
    "  mov %ax, %ss\n"
    "  push %ebx\n"
    "  call guest\n"
    "2: hlt\n"
    "  jmp 2b\n"
    ".globl timer_interrupt\n"
    "timer_interrupt:\n"
    "  push %eax\n"
    "  mov $0x20, %al\n"
    "  out %al, $0x20\n"
    "  pop %eax\n"
    "  iret\n"
    ".section .data\n"
    ".align 8\n"
    "gdt:\n"
    "  .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff\n"
    "gdt_pointer:\n"
    "  .word 23\n"
    "  .long gdt\n"
    ".section .bss\n"
    ".align 16\n"
    "  .skip 16384\n"
    "stack_top:\n"
    ".text\n");

extern void timer_interrupt(void);

struct disk {
    u16 port;
    u8 unit_bits; /* master or slave, with the bit for LBA */
};

static struct disk disks[4];
static u32 disk_count;
static u32 torn_lines;
static u32 slots;
static u32 idt[0x21 * 2] __attribute__((aligned(8)));

static void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }

static u8 inb(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void print_char(char c)
{
    while (!(inb(COM1 + 5) & 0x20)) {
    }
    outb(COM1, (u8)c);
}

static void print(const char *text)
{
    while (*text) {
        print_char(*text++);
    }
}

static void print_number(const char *label, u32 value)
{
    char digits[10];
    int n = 0;
    print(label);
    do {
        digits[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    while (n) {
        print_char(digits[--n]);
    }
}

static void halt(void)
{
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

/* Waits until the disk is ready; with data to hand over if `data` is set. */
static void disk_wait(const struct disk *disk, int data)
{
    for (;;) {
        u8 status = inb(disk->port + 7);
        if (status & 0x80) {
            continue; /* busy */
        }
        if (status & 0x21) {
            print_number("FATAL disk error status=", status);
            print("\n");
            halt();
        }
        if (!data || (status & 0x08)) {
            return;
        }
    }
}

static void disk_command(const struct disk *disk, u8 command, u32 lba, u8 sectors)
{
    outb(disk->port + 6, disk->unit_bits | ((lba >> 24) & 0x0f));
    disk_wait(disk, 0);
    outb(disk->port + 2, sectors);
    outb(disk->port + 3, (u8)lba);
    outb(disk->port + 4, (u8)(lba >> 8));
    outb(disk->port + 5, (u8)(lba >> 16));
    outb(disk->port + 7, command);
}

static void disk_read(const struct disk *disk, u32 lba, u32 *sector)
{
    u32 words = SECTOR_WORDS;
    disk_command(disk, 0x20, lba, 1);
    disk_wait(disk, 1);
    __asm__ volatile("rep insl" : "+D"(sector), "+c"(words) : "d"(disk->port) : "memory");
}

/* Fills `sectors` sectors with the counter as little-endian u64, over and over. */
static void disk_write(const struct disk *disk, u32 lba, u8 sectors, u32 counter)
{
    static u32 sector[SECTOR_WORDS];
    for (u32 i = 0; i < SECTOR_WORDS; i += 2) {
        sector[i] = counter;
        sector[i + 1] = 0;
    }
    disk_command(disk, 0x30, lba, sectors);
    for (; sectors; sectors--) {
        const u32 *from = sector;
        u32 words = SECTOR_WORDS;
        disk_wait(disk, 1);
        __asm__ volatile("rep outsl" : "+S"(from), "+c"(words) : "d"(disk->port) : "memory");
    }
    disk_wait(disk, 0);
}

/* The counter that a sector holds; all of the sector must agree on it, else u32's highest value. */
static u32 disk_counter(const struct disk *disk, u32 lba)
{
    static u32 sector[SECTOR_WORDS];
    disk_read(disk, lba, sector);
    for (u32 i = 0; i < SECTOR_WORDS; i += 2) {
        if (sector[i] != sector[0] || sector[i + 1] != 0) {
            return 0xffffffff;
        }
    }
    return sector[0];
}

static u32 slot_sector(u32 counter) { return SLOT_BASE + counter % slots * SLOT_SECTORS; }

/* What the slot of iteration `counter` holds before that iteration writes it. */
static u32 slot_before(u32 counter) { return counter > slots ? counter - slots : 0; }

static void expect_on_disk(u32 unit, const char *place, u32 lba, u32 ram, u32 expected)
{
    u32 found = disk_counter(&disks[unit], lba);
    if (found == expected || torn_lines >= MAX_TORN_LINES) {
        return;
    }
    torn_lines++;
    print_number("TORN ram=", ram);
    print_number(" disk=", found);
    print_number(" unit=", unit);
    print(" at=");
    print(place);
    print("\n");
}

/* Finds up to four IDE disks and sets the number of slots by the smallest. */
static void find_disks(u32 max_slots)
{
    static const u16 ports[2] = {0x1f0, 0x170};
    slots = max_slots;
    for (u32 i = 0; i < 4; i++) {
        struct disk disk = {ports[i / 2], i % 2 ? 0xf0 : 0xe0};
        u32 identity[SECTOR_WORDS];
        u32 words = SECTOR_WORDS;
        u32 *into = identity;
        u32 fitting;
        u8 status;
        outb(disk.port + 6, disk.unit_bits);
        status = inb(disk.port + 7);
        if (status == 0 || status == 0xff || !(status & 0x40)) {
            continue;
        }
        disk_command(&disk, 0xec, 0, 0);
        disk_wait(&disk, 1);
        __asm__ volatile("rep insl" : "+D"(into), "+c"(words) : "d"(disk.port) : "memory");
        if (identity[30] < SLOT_BASE + 2 * SLOT_SECTORS) { /* words 60 and 61: sectors */
            print_number("FATAL disk too small, sectors=", identity[30]);
            print("\n");
            halt();
        }
        fitting = (identity[30] - SLOT_BASE) / SLOT_SECTORS;
        if (fitting < slots) {
            slots = fitting;
        }
        disks[disk_count++] = disk;
    }
    if (disk_count == 0) {
        print("FATAL no disk\n");
        halt();
    }
}

/* The timer interrupts `hz` times a second, and nothing else does. */
static void start_timer(u32 hz)
{
    static struct {
        u16 limit;
        u32 base;
    } __attribute__((packed)) pointer;
    u32 handler = (u32)timer_interrupt;
    u32 divisor = PIT_HZ / hz;
    if (divisor > 0xffff) {
        divisor = 0xffff;
    }
    idt[0x20 * 2] = 8u << 16 | (handler & 0xffff);
    idt[0x20 * 2 + 1] = (handler & 0xffff0000) | 0x8e00;
    pointer.limit = sizeof idt - 1;
    pointer.base = (u32)idt;
    __asm__ volatile("lidt %0" ::"m"(pointer));
    outb(0x20, 0x11); /* both interrupt controllers: vectors from 0x20, all masked but the timer */
    outb(0xa0, 0x11);
    outb(0x21, 0x20);
    outb(0xa1, 0x28);
    outb(0x21, 0x04);
    outb(0xa1, 0x02);
    outb(0x21, 0x01);
    outb(0xa1, 0x01);
    outb(0x21, 0xfe);
    outb(0xa1, 0xff);
    outb(0x43, 0x34);
    outb(0x40, (u8)divisor);
    outb(0x40, (u8)(divisor >> 8));
}

/* The value of ` name=` on the command line, or `otherwise`. */
static u32 option(const char *line, const char *name, u32 otherwise)
{
    for (; *line; line++) {
        const char *at = line;
        const char *want = name;
        u32 value = 0;
        if (*at++ != ' ') {
            continue;
        }
        while (*want && *at == *want) {
            at++;
            want++;
        }
        if (*want || *at != '=') {
            continue;
        }
        for (at++; *at >= '0' && *at <= '9'; at++) {
            value = value * 10 + (u32)(*at - '0');
        }
        return value;
    }
    return otherwise;
}

/* Goes on from what the first disk holds, and brings all disks to exactly that state: a cold boot
   from a disk that was copied in mid-iteration is no torn snapshot. */
static u32 adopt_disks(void)
{
    u32 counter = disk_counter(&disks[0], FIXED_SECTOR);
    for (u32 unit = 0; counter != 0 && unit < disk_count; unit++) {
        disk_write(&disks[unit], FIXED_SECTOR, 1, counter);
        disk_write(&disks[unit], slot_sector(counter), SLOT_SECTORS, counter);
        disk_write(&disks[unit], slot_sector(counter + 1), SLOT_SECTORS, slot_before(counter + 1));
    }
    return counter;
}

/* Writes the next page of the window. Each page holds the number of the write that filled it last,
   so the one before it in the same page must be exactly one round old. */
static void count_page(u32 write, u32 window_pages)
{
    volatile u32 *page = (u32 *)WINDOW_START + write % window_pages * PAGE_WORDS;
    if (*page != write - window_pages && torn_lines < MAX_TORN_LINES) {
        torn_lines++;
        print_number("TORN page=", write % window_pages);
        print_number(" want=", write - window_pages);
        print_number(" got=", *page);
        print("\n");
    }
    *page = write;
}

void guest(const u32 *multiboot);

void guest(const u32 *multiboot)
{
    const char *line = multiboot[0] & 4 ? (const char *)multiboot[4] : "";
    u32 window_pages = option(line, "window", 32) * 256;
    u32 pages = option(line, "pages", 32);
    u32 max_slots = option(line, "slots", 4096);
    u32 tick = option(line, "tick", 20);
    u32 hz = option(line, "hz", 200);
    u32 write;
    u32 counter;

    find_disks(max_slots);
    counter = adopt_disks();
    for (write = 0; write < window_pages; write++) {
        *((volatile u32 *)WINDOW_START + write * PAGE_WORDS) = write;
    }
    print_number("boot counter=", counter);
    print_number(" disks=", disk_count);
    print_number(" slots=", slots);
    print("\n");
    if (hz) {
        start_timer(hz);
    }
    for (;;) {
        for (u32 unit = 0; unit < disk_count; unit++) {
            expect_on_disk(unit, "fixed", FIXED_SECTOR, counter, counter);
            expect_on_disk(unit, "slot", slot_sector(counter), counter, counter);
        }
        counter++;
        for (u32 n = 0; n < pages && window_pages; n++) {
            count_page(write++, window_pages);
        }
        for (u32 unit = 0; unit < disk_count; unit++) {
            expect_on_disk(unit, "next", slot_sector(counter), counter, slot_before(counter));
            disk_write(&disks[unit], slot_sector(counter), SLOT_SECTORS, counter);
            disk_write(&disks[unit], FIXED_SECTOR, 1, counter);
        }
        if (tick && counter % tick == 0) {
            print_number("tick ", counter);
            print("\n");
        }
        if (hz) {
            __asm__ volatile("sti; hlt; cli" ::: "memory");
        }
    }
}
