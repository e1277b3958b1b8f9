"""The English grammar of the sample stories: data only, read by `stories`.

A slot "hero|he" has options such as "Lina|she". A plot adds its own slots to the shared ones, or replaces them. Its steps
are written one per line; a line that begins with "|" is another variant of the step above it, and "|" alone leaves that step out.
"""

GIRLS = ["Lina", "Bopha", "Anna", "Mia", "Maly", "Rosa", "Emma", "Chanthy", "Sara", "Nary"]
BOYS = ["Dara", "Tom", "Ben", "Sokha", "Sam", "Visal", "Leo", "Rithy", "Max", "Jack"]
PEOPLE = [f"{name}|she|her|her|girl" for name in GIRLS] + [f"{name}|he|him|his|boy" for name in BOYS]

SLOTS = {
    "hero|he|him|his|child": PEOPLE,
    "friend|friend_he|friend_him|friend_his|friend_child": PEOPLE,
    "helper|helper_he|helper_his": [
        "mother|she|her",
        "father|he|his",
        "grandmother|she|her",
        "grandfather|he|his",
        "big sister|she|her",
        "big brother|he|his",
        "aunt|she|her",
        "uncle|he|his",
    ],
    "nature": ["kind", "clever", "quiet", "cheerful", "gentle", "brave", "curious", "little", "polite"],
    "home": [
        "in a small village",
        "near a wide river",
        "at the foot of a hill",
        "by the sea",
        "near the rice fields",
        "in a little house",
        "at the edge of a forest",
        "next to a lake",
        "in a quiet town",
        "on a small farm",
    ],
    "time": ["One day", "One morning", "One afternoon", "On Sunday", "One warm day", "One sunny day"],
    "color": ["red", "blue", "green", "yellow", "white", "orange", "purple", "pink"],
    "fruit|fruits": ["mango|mangoes", "orange|oranges", "papaya|papayas", "guava|guavas", "apple|apples"],
    "snack": ["a rice cake", "a banana", "some sweet bread", "a bowl of soup", "an egg", "some sticky rice"],
}

INTRODUCTIONS = [
    "Once upon a time, there was a {child} named {hero}.",
    "Once upon a time, there was a {nature} {child} named {hero} who lived {home}.",
    "Once upon a time, a {nature} {child} named {hero} lived {home}.",
    "{hero} was a {nature} {child} who lived {home}.",
    "There was once a {nature} {child} named {hero}. {he} lived {home} with {his} family.",
]

PLOTS: dict[str, tuple[dict[str, list[str]], str]] = {
    "lost thing": (
        {
            "thing": ["hat", "ball", "kite", "book", "doll", "umbrella", "bag", "scarf", "pencil box"],
            "looked": [
                "under the bed",
                "behind the door",
                "on the table",
                "in the big box",
                "under the chair",
            ],
            "spot": [
                "under the mango tree",
                "beside the well",
                "in the tall grass",
                "next to the gate",
                "under the stairs",
                "behind the water jar",
            ],
        },
        """
        {hero} had a {color} {thing} that {he} loved very much.
        | {his} favorite thing in the world was a {color} {thing}.
        | {his} {helper} had given {him} a {color} {thing}, and {hero} loved it very much.
        {time}, the {thing} was gone.
        | {time}, {he} could not find the {thing}.
        | {time}, {hero} wanted to show the {thing} to a friend, but it was not there.
        {he} looked {looked}, but the {thing} was not there.
        | {hero} looked {looked} and found only dust.
        | {he} looked {looked}. {he} looked everywhere in the house.
        {hero} was very sad and began to cry.
        | {he} sat down by the door and felt very sad.
        | Tears came to {his} eyes.
        {his} {helper} asked, "Why are you so sad, {hero}?"
        | "What is wrong, {hero}?" asked {his} {helper}.
        "I have lost my {color} {thing}," said {hero}.
        | {hero} answered, "I cannot find my {color} {thing}."
        "Let us look for it together," said {his} {helper}.
        | {his} {helper} took {his} hand, and they looked for it together.
        At last, they found the {thing} {spot}.
        | They looked outside the house, and there it was, {spot}.
        | They walked around the house and saw something {color} {spot}. It was the {thing}!
        {hero} hugged {his} {helper} and said, "Thank you!"
        | {hero} jumped for joy and thanked {his} {helper}.
        From that day on, {hero} always put the {thing} back in its place.
        | {hero} learned to take good care of {his} things.
        | After that, {he} never forgot where {he} put the {thing}.
        """,
    ),
    "new friend": (
        {
            "time": ["One day", "One morning", "On Monday", "One warm day", "One sunny day"],
            "spot": [
                "under a big tree",
                "near the gate",
                "on a bench",
                "by the wall",
                "in the corner of the yard",
            ],
            "play|playing": [
                "play ball|playing ball",
                "play hide and seek|playing hide and seek",
                "fly a kite|flying a kite",
                "draw pictures|drawing pictures",
                "jump rope|jumping rope",
                "sing songs|singing songs",
                "read a book|reading a book",
            ],
        },
        """
        {time}, a new {friend_child} named {friend} came to school.
        | {time}, {hero} saw a new {friend_child} at school. {friend_his} name was {friend}.
        {friend} sat alone {spot} and did not talk to anyone.
        | {friend} stood {spot} and looked at the ground.
        | When the bell rang, {friend} sat {spot} all alone.
        {friend_he} did not have any friends yet.
        | {friend_he} was new, and {friend_he} felt shy.
        | {friend} missed {friend_his} old home.
        {hero} walked over to {friend} and smiled.
        | {hero} did not want {friend_him} to be lonely, so {he} went to say hello.
        "Do you want to {play} with me?" asked {hero}.
        | {hero} asked, "Would you like to {play} with me?"
        "Yes, I would love to!" said {friend}.
        | {friend} smiled and said, "Yes, please!"
        They had fun {playing} until the sun went down.
        | For a long time, they laughed and had fun {playing}.
        Then {hero} shared {snack} with {friend}.
        | When they were hungry, {friend} shared {snack} with {hero}.
        |
        From that day on, {hero} and {friend} were best friends.
        | After that, {hero} and {friend} walked to school together every morning.
        | {hero} was happy, because a small smile had brought {him} a good friend.
        """,
    ),
    "animal in the rain": (
        {
            "animal|sound|food": [
                "kitten|meow|fish",
                "puppy|bark|rice",
                "duckling|quack|grain",
                "chick|peep|grain",
                "piglet|squeal|corn",
                "lamb|cry|grass",
            ],
            "coat": ["white", "black", "brown", "gray", "yellow", "spotted"],
            "spot": [
                "under a bush",
                "beside the road",
                "behind a rock",
                "under an old cart",
                "near the fence",
            ],
            "pet": ["Lucky", "Coco", "Tiny", "Momo", "Star", "Pepper", "Bubu"],
        },
        """
        {time}, the sky grew dark and it began to rain hard.
        | {time}, black clouds came and the rain fell and fell.
        | {time}, it rained so hard that the road turned to mud.
        {hero} was walking home when {he} heard a small sound.
        | On the way home, {hero} heard a soft {sound}.
        {spot}, {he} saw a little {coat} {animal}.
        | {he} looked around and found a little {coat} {animal} {spot}.
        It was wet and cold, and it was shaking.
        | The {animal} was cold and hungry, and it had no mother.
        | It was so wet that it could not stop shaking.
        {hero} felt sorry for the {animal} and carried it home.
        | "Do not be afraid," said {hero}. {he} put the {animal} under {his} coat and took it home.
        {his} {helper} dried the {animal} with a warm towel.
        | {hero} and {his} {helper} dried it with a soft towel.
        Then {hero} gave the {animal} some {food} to eat.
        | The {animal} ate some {food} and went to sleep by the fire.
        "Can we keep it?" asked {hero}. "Yes, if you take good care of it," said {his} {helper}.
        | {his} {helper} said, "It can stay with us if you take good care of it."
        {hero} named the {animal} {pet}.
        | They called the {animal} {pet}, because {hero} liked that name.
        From that day on, {pet} followed {hero} everywhere.
        | {hero} and {pet} played together every day and were never lonely again.
        | Now {hero} was happy when it rained, because the rain had brought {him} a friend.
        """,
    ),
    "market": (
        {
            "first": ["fish", "rice", "eggs", "vegetables", "salt", "sugar"],
            "second": ["flowers", "fruit", "bread", "beans", "milk", "soap"],
            "sight": [
                "the toys",
                "the bright lamps",
                "a bird in a cage",
                "the red balloons",
                "a man with a drum",
            ],
            "seller|seller_he": [
                "flower seller|she",
                "fish seller|he",
                "baker|he",
                "fruit seller|she",
                "noodle seller|she",
                "basket seller|he",
            ],
            "stall": [
                "by the rice shop",
                "near the big gate",
                "next to the well",
                "in front of the cloth shop",
            ],
        },
        """
        {time}, {hero} went to the market with {his} {helper}.
        | {time}, {his} {helper} took {him} to the market.
        They wanted to buy {first} and {second}.
        | {his} {helper} needed {first} and {second}.
        There were many people at the market, and it was very loud.
        | The market was full of people, colors and good smells.
        {hero} stopped to look at {sight}, and when {he} turned around, {his} {helper} was gone.
        | {hero} let go of the hand of {his} {helper} to look at {sight}. Then {he} was alone in the crowd.
        {hero} was afraid and wanted to cry.
        | "Where are you?" {he} called, but no one answered.
        | {his} heart beat fast.
        A {seller} saw {him} and asked, "Are you lost, little one?"
        | "Who are you looking for?" asked a kind {seller}.
        "I cannot find my {helper}," said {hero}.
        | {hero} answered, "I am looking for my {helper}."
        The {seller} took {his} hand, and they walked through the market together.
        | "Do not worry, I will help you," said the {seller}.
        Soon they found {his} {helper} {stall}.
        | They saw {his} {helper} {stall}. {helper_he} was looking for {hero}, too.
        {his} {helper} hugged {him} and thanked the {seller}.
        | {hero} ran to {his} {helper} and held {helper_his} hand. They both thanked the {seller}.
        From that day on, {hero} always stayed close to {his} {helper} at the market.
        | {hero} learned to stay close to {his} family in a busy place.
        """,
    ),
    "river": (
        {
            "animal": ["puppy", "kitten", "monkey", "rabbit", "squirrel", "lamb", "little goat"],
            "water": ["river", "stream", "canal"],
            "tool": ["a long branch", "a wooden ladder", "a bamboo pole", "a wooden board", "a big basket"],
        },
        """
        {time}, {hero} and {friend} went to play by the {water}.
        | {time}, {hero} walked along the {water} with {friend}.
        Suddenly, they saw a {animal} in the water.
        | They heard a splash. A {animal} had fallen into the {water}!
        The water was fast, and the {animal} could not reach the bank.
        | The {animal} was tired and could not swim any more.
        "We must help it!" cried {hero}.
        | "Look! It needs our help!" shouted {friend}.
        {hero} wanted to jump in, but {friend} said the water was too deep.
        | They knew that the water was deep, so they did not jump in.
        {friend} ran and came back with {tool}.
        | {hero} looked around and found {tool} under a tree.
        They held it out over the water, and the {animal} held on.
        | They pushed it into the water, and the {animal} climbed onto it.
        {hero} and {friend} pulled as hard as they could.
        | One, two, three! They pulled together.
        At last, the {animal} was safe on the grass.
        | Soon the {animal} stood on the bank and shook the water from its fur.
        {hero} and {friend} were proud of what they had done.
        | They were very happy, because two friends can do what one cannot.
        | The {animal} looked at the two friends as if to say thank you.
        """,
    ),
    "sharing fruit": (
        {
            "number": ["two", "three", "four", "five", "six"],
            "place": [
                "at the bridge",
                "near the school",
                "under a big tree",
                "beside the road",
                "at the pond",
            ],
        },
        """
        {time}, {his} {helper} gave {him} {number} {fruits}.
        | {time}, {hero} picked {number} {fruits} in the garden.
        The {fruits} were ripe and sweet.
        | They smelled so good that {he} wanted to eat them all.
        A little later, {hero} met {friend} {place}.
        | Then {he} saw {friend} sitting {place}.
        {friend} was hungry, because {friend_he} had brought no food.
        | "I am so hungry," said {friend}. "I have nothing to eat."
        At first, {hero} did not want to share.
        | {hero} looked at the {fruits} and thought for a while.
        But then {he} smiled and gave {friend} the biggest {fruit}.
        | Then {he} said, "Please take this {fruit}. We can eat together."
        "Thank you, {hero}! This {fruit} is so sweet," said {friend}.
        | {friend} took a bite and said, "This is the best {fruit} I have ever eaten!"
        They sat down and ate the {fruits} together.
        | The two friends sat in the shade, ate and laughed.
        The next day, {friend} brought {snack} for {hero}.
        | The next morning, {friend} came back and shared {snack} with {hero}.
        {hero} learned that food tastes better when it is shared.
        | {hero} understood that sharing makes two people happy.
        | After that, they always shared what they had.
        """,
    ),
    "helping": (
        {
            "helper|helper_he|helper_his": ["grandmother|she|her", "grandfather|he|his"],
            "work|worked": [
                "water the garden|watered the garden",
                "sweep the yard|swept the yard",
                "wash the clothes|washed the clothes",
                "carry the water|carried the water",
                "pick the beans|picked the beans",
                "cook the rice|cooked the rice",
                "feed the hens|fed the hens",
            ],
            "pain": ["back", "leg", "arm", "foot", "knee"],
            "tale": ["a clever rabbit", "a brave tiger", "a slow turtle", "an old elephant", "a golden fish"],
        },
        """
        {time}, {hero} went to visit {his} {helper}.
        | {time}, {he} walked to the house of {his} {helper}.
        {his} {helper} was old, and {helper_his} {pain} hurt.
        | {his} {helper} sat on a chair. {helper_his} {pain} hurt that day.
        "I have to {work}, but I am so tired," said {his} {helper}.
        | {his} {helper} wanted to {work}, but {helper_he} could not do it alone.
        "Please rest, and I will do it for you," said {hero}.
        | {hero} said, "Do not worry. I will help you!"
        {hero} {worked} without any help.
        | So {hero} {worked} while {his} {helper} rested in the shade.
        It was hard work, but {he} did not stop.
        | {he} was tired, but {he} felt happy.
        {his} {helper} smiled and gave {him} {snack}.
        | When it was done, {his} {helper} said, "Thank you, {hero}," and gave {him} {snack}.
        In the evening, {his} {helper} told {him} a story about {tale}.
        | Then they sat together, and {helper_he} told {him} a story about {tale}.
        {hero} loved the story and promised to come back soon.
        | {hero} went home happy, because {he} had helped someone {he} loved.
        | After that, {hero} came to help {his} {helper} every week.
        """,
    ),
    "tree": (
        {
            "garden": [
                "behind the house",
                "in front of the house",
                "near the well",
                "beside the fence",
                "by the path",
            ],
            "number": ["five", "seven", "ten", "twelve", "twenty"],
        },
        """
        {time}, {his} {helper} gave {him} a {fruit} seed.
        | {time}, {hero} ate a {fruit} and kept one seed.
        {hero} dug a small hole {garden} and planted the seed.
        | {hero} planted the seed in the soft ground {garden}.
        Every morning, {he} gave it water.
        | Every day before school, {hero} watered the seed.
        After {number} days, there was still nothing to see.
        | {number} days went by, but nothing came up.
        "Why does it not grow?" {hero} asked {his} {helper}.
        | {hero} was sad and asked, "Is my seed asleep?"
        "You must wait, my dear," said {his} {helper}. "Good things take time."
        | {his} {helper} said, "Be patient and give it water every day."
        Then, one morning, two small green leaves came out of the ground.
        | One morning after the rain, {hero} saw a tiny green leaf.
        {hero} jumped for joy and ran to tell {his} {helper}.
        | "It is alive!" {he} shouted. {his} {helper} laughed.
        Years later, the little plant was a tall tree full of {fruits}.
        | The tree grew and grew, and one year it was full of {fruits}.
        {hero} picked the {fruits} and shared them with all the neighbors.
        | {hero} gave the first {fruit} to {his} {helper}.
        {hero} had learned to be patient.
        | Now {hero} knew that good things come to those who wait.
        |
        """,
    ),
    "school": (
        {
            "time": ["One day", "One morning", "On Monday", "On the first day of school", "One rainy day"],
            "task|tasks": ["read|reading", "write|writing", "count|counting", "draw|drawing", "sing|singing"],
            "spot": [
                "under a tree",
                "at the library",
                "by the river",
                "in the garden",
                "on the steps of the school",
            ],
        },
        """
        {time}, the teacher taught the children to {task}.
        | {time}, the children at school were learning to {task}.
        {hero} tried and tried, but {tasks} was too hard for {him}.
        | All the other children could do it, but {hero} could not {task} well.
        {he} felt shy and did not say a word.
        | {hero} put {his} head on the desk and felt sad.
        {friend}, who sat next to {him}, saw this.
        | {his} friend {friend} saw that {he} was sad.
        "Do not give up," said {friend}. "I will help you."
        | {friend} said, "It was hard for me, too. Let us practice together."
        Every afternoon, they sat {spot} and practiced {tasks}.
        | After school, the two friends met {spot} to practice {tasks}.
        Day by day, {hero} got better.
        | {hero} made many mistakes, but {he} did not stop.
        A week later, {hero} was not afraid to {task} in front of the class.
        | Soon {hero} could {task} in front of the whole class.
        "Well done, {hero}!" said the teacher, and all the children clapped.
        | The teacher smiled and said, "I am proud of you, {hero}."
        {hero} thanked {friend} with a big hug.
        | {hero} was happy and thanked {friend} for {friend_his} help.
        | {hero} learned that a good friend makes hard things easy.
        """,
    ),
    "moon": (
        {
            "time": ["One night", "One clear night", "One evening", "One summer night"],
            "like": ["a silver plate", "a big lamp", "a pearl", "a shiny coin", "a bowl of milk"],
            "high": ["the hill", "the stairs", "a big rock", "the gate", "a tall chair"],
            "bowl": ["a bowl", "a bucket", "a big pot", "a basin", "a jar"],
        },
        """
        {time}, {hero} looked up and saw the full moon.
        | {time}, the moon was big and round in the sky.
        It shone like {like}.
        | {hero} thought it looked like {like}.
        "I want to catch the moon and take it home," said {hero}.
        | {he} wanted to hold the moon in {his} hands.
        {he} climbed up {high} and reached as high as {he} could.
        | {hero} climbed up {high} and stood on {his} toes.
        But the moon was still too far away.
        | But {he} could not touch it, and {he} was sad.
        {his} {helper} saw {him} and asked, "What are you doing, {hero}?"
        | "Why are you up there?" asked {his} {helper}.
        "I cannot reach the moon," said {hero}.
        | {hero} sighed. "The moon does not want to come to me."
        {his} {helper} laughed, took {bowl}, filled it with water and put it on the ground.
        | {his} {helper} filled {bowl} with water and put it down in front of {him}.
        {hero} looked into the water, and there was the moon!
        | In the water, {hero} saw a little moon shining.
        "Now the moon is here with us!" cried {hero}.
        | "You brought the moon to our house!" said {hero}.
        That night, {hero} fell asleep with a smile.
        | {hero} said good night to the moon and went to bed happy.
        | {hero} dreamed of the moon all night long.
        """,
    ),
    "kite": (
        {
            "shape": ["bird", "fish", "star", "butterfly", "dragon"],
            "tree": ["mango tree", "palm tree", "tall tree", "coconut tree", "old tree"],
            "adult|adult_he": ["farmer|he", "fisherman|he", "carpenter|he", "teacher|she", "woman|she"],
        },
        """
        {time}, {hero} and {friend} made a {color} kite that looked like a {shape}.
        | {time}, {friend} helped {hero} make a kite. It looked like a {color} {shape}.
        The wind was strong, and the kite flew high into the sky.
        | They ran across the field, and the kite went up and up.
        Suddenly, the wind turned, and the kite got stuck in a {tree}.
        | Then the string broke, and the kite fell into a {tree}.
        {hero} jumped, but {he} could not reach it.
        | {friend} tried to climb up, but the tree was too high.
        They took a long stick, but it was still too short.
        | They shook the tree, but the kite did not come down.
        |
        A {adult} came by and asked, "Do you need help?"
        | Just then, a {adult} came along the road. "Can I help you?" {adult_he} asked.
        "Our kite is in the {tree}," said {friend}.
        | "Yes, please! We cannot reach our kite," said {hero}.
        The {adult} brought a ladder and got the kite down.
        | The {adult} put a ladder against the tree and brought them the kite.
        "Thank you very much!" said {hero} and {friend}.
        | {hero} and {friend} thanked the {adult} with all their hearts.
        Then they flew the kite in an open field, where there were no trees.
        | They played with the kite until the sun went down.
        | After that, they always flew their kite far away from the trees.
        """,
    ),
    "baby bird": (
        {
            "bird": ["bird", "sparrow", "dove", "parrot", "swallow"],
            "place": [
                "in the garden",
                "in the forest",
                "near the rice field",
                "along the path",
                "under the trees",
            ],
            "gift": ["sang a song", "sat on the fence and sang", "came to the window and sang"],
        },
        """
        {time}, {hero} was walking {place}.
        | {time}, {hero} went for a walk {place}.
        {he} saw a baby {bird} that had fallen from its nest.
        | On the ground, {he} found a baby {bird}. It had fallen from its nest.
        It was very small and could not fly yet.
        | The baby {bird} was calling for its mother.
        {hero} was afraid that a cat would find it.
        | {hero} did not know how to help, because the nest was too high.
        "Wait here, little {bird}," {he} said, and {he} ran to get {his} {helper}.
        | {he} ran home and called {his} {helper}.
        {his} {helper} came with a ladder.
        | "Let us take it home to its mother," said {his} {helper}, and {helper_he} brought a ladder.
        Very gently, {hero} put the baby {bird} back into the nest.
        | {hero} climbed up slowly and put the baby {bird} next to its brothers and sisters.
        Soon the mother came back with food for her baby.
        | The mother {bird} came back and was so happy.
        "You have a good heart, {hero}," said {his} {helper}.
        | {hero} watched them from below and smiled.
        After that, the {bird} {gift} for {hero} every morning.
        | When the baby {bird} grew up, it {gift} for {hero}.
        """,
    ),
    "noise at night": (
        {
            "time": ["One night", "One dark night", "Late one night", "One windy night"],
            "where": [
                "behind the house",
                "under the window",
                "in the kitchen",
                "on the roof",
                "near the door",
            ],
            "feared": ["a tiger", "a ghost", "a giant", "a thief", "a big snake"],
            "animal": ["kitten", "puppy", "little frog", "baby owl", "hen", "little goat", "mouse"],
            "light": ["a lamp", "a candle", "a small light", "a lantern"],
        },
        """
        {time}, {hero} heard a strange noise {where}.
        | {time}, a strange noise {where} woke {hero} up.
        {he} thought it was {feared}.
        | "Maybe it is {feared}!" {he} thought.
        {hero} was so afraid that {he} hid under the blanket.
        | {he} closed {his} eyes and did not move.
        Then {he} called {his} {helper}.
        | After a while, {he} ran to wake up {his} {helper}.
        "Do not be afraid. Let us go and see," said {his} {helper}.
        | {his} {helper} said, "Come with me. We will look together."
        They took {light} and walked slowly toward the noise.
        | {hero} held {light} in one hand and the hand of {his} {helper} in the other.
        There they saw a {animal}. It was only looking for food.
        | It was only a {animal} that had lost its way!
        {hero} began to laugh, and {his} {helper} laughed, too.
        | "You are not {feared}!" said {hero}, and they both laughed.
        They gave the {animal} some food and went back to bed.
        | {hero} gave the {animal} something to eat and said good night.
        After that, {hero} was not afraid of the dark any more.
        | {hero} learned that many things are not as scary as they seem.
        """,
    ),
}
